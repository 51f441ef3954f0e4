"""How much memory verbs take for what is not tensors, which is in memory as a whole.

What tensors take is bounded by `pool_stream`; benchmarks/RESULTS.md has the figures.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

SIZE = 40_000_000
COPIES = 2.2
"""Most copies at a time: of 100 MB, which is the most there may be, 220 MB."""

PROGRAM = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safemodel import ProtectionKey, protect, restore, rotate, verify
key, signer = ProtectionKey(bytes(range(32))), Ed25519PrivateKey.generate()
public = signer.public_key().public_bytes_raw()
plain, made, turned, back = sys.argv[1:]
there = {"key": key, "overwrite": True}
calls = {
    "protect": lambda: protect(plain, made, signer=signer, **there),
    "verify": lambda: verify(made, key=key, public_key=public),
    "verify without key": lambda: verify(made, public_key=public),
    "rotate": lambda: rotate(made, turned, signer=signer, **there),
    "restore": lambda: restore(turned, back, **there),
}
for name, call in [*calls.items()] * 2:  # what is loaded once would hide a copy
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak before
    call()
    lines = Path("/proc/self/status").read_text().splitlines()
    print(name, *[line.split()[1] for line in lines if line.startswith("VmHWM:")],
          sep=":")
"""


def file_of(kind: str, size: int) -> bytes:
    """Return a file with so many bytes that are no tensor, and do not compress."""
    made = {"w": torch.arange(300_000.0)}
    noise = os.urandom(size)
    if kind == "safetensors":
        # Of text, as few bits as possible stay on each byte.
        text = noise[: size // 2].hex()
        return safetensors.torch.save(made, {"noise": text})
    file = io.BytesIO()
    torch.save({**made, "noise": noise}, file, pickle_protocol=4)
    return file.getvalue()


def peaks(folder: Path, kind: str, size: int) -> dict[str, int]:
    """Return the most memory that each verb takes, in bytes."""
    names = [folder / f"{name}.{kind}" for name in ("plain", "made", "turned", "back")]
    for name in names:
        name.unlink(missing_ok=True)
    names[0].write_bytes(file_of(kind, size))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, names)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert names[-1].read_bytes() == names[0].read_bytes()
    lines = (line.split(":") for line in done.stdout.splitlines())
    return {verb: int(peak) << 10 for verb, peak in lines}


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system tells no peaks"
)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_what_is_no_tensor_is_not_held_many_times(tmp_path, kind):
    """Each verb, beside what it takes for a file with nothing of the kind."""
    least, most = peaks(tmp_path, kind, 10), peaks(tmp_path, kind, SIZE)
    assert len(most) == 5
    for verb, peak in most.items():
        assert peak - least[verb] < COPIES * SIZE, verb
    assert most["rotate"] - least["rotate"] > SIZE  # it does measure
