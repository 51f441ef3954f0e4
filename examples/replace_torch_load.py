"""Replace ``torch.load`` by a rename; the checkpoint may hold what torch refuses."""

import argparse
import tempfile
from pathlib import Path

import torch

from safemodel import safe_load

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.pt"
    model = torch.nn.Linear(4, 2)
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(k=3)}, path)

    # Before: torch.load(path, map_location="cpu", weights_only=False), which runs
    # whatever the file says. After: the same call under another name.
    checkpoint = safe_load(path, map_location="cpu")

    model.load_state_dict(checkpoint["model"])
    print("loaded", list(checkpoint["model"]), "trained with k =", checkpoint["args"].k)
