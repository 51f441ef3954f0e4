"""Hand out a model that nobody can use or change without a key, and move it again."""

import tempfile
from pathlib import Path

import torch

from safemodel import (
    ProtectionKey,
    VerificationError,
    protect,
    rotate,
    safe_load,
    verify,
)

with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    model = torch.nn.Linear(64, 8)
    key = ProtectionKey.generate()
    key.to_file(folder / "model.key")  # mode 0600; keep a copy elsewhere

    # With the order hidden only, numbers could be recognised: encrypt them as well.
    first = protect(model, folder / "model.pt", key=key, confidential=True)
    print(f"protected {first.tensors} tensors, key {first.key_id[:8]}...")

    # Whoever deploys it loads it in one step: verified, restored, never on the disk.
    seen = folder / "epochs"
    weights = safe_load(folder / "model.pt", key=key, state=seen)
    model.load_state_dict(weights)
    print("loaded", *weights)

    # Next month: another order, another keystream. The old file is a replay now.
    rotate(folder / "model.pt", folder / "next.pt", key=key, state=seen)
    for name in ("next.pt", "model.pt"):
        try:
            report = verify(folder / name, key=key, state=seen)
            print(f"{name}: epoch {report.epoch}, as it was made")
        except VerificationError as error:
            print(f"{name}: {error}")
