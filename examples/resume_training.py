"""Resume training, and overwrite the checkpoint just loaded, as training loops do.

The default copies, so the file may be replaced while its tensors are in use. With
``mmap=True`` tensors are mapped from the file: quick, for files nobody rewrites.
"""

import tempfile
from pathlib import Path

import torch

from safemodel import safe_load


def train(path: Path, epochs: int) -> float:
    """Train for some epochs, going on from the checkpoint if there is one."""
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    first, loss = 0, torch.tensor(0.0)
    if path.exists():
        checkpoint = safe_load(path, map_location="cpu")
        model.load_state_dict(checkpoint["model"])
        optimiser.load_state_dict(checkpoint["optimizer"])
        torch.set_rng_state(checkpoint["rng"])
        first = checkpoint["epoch"]
    for epoch in range(first, first + epochs):
        inputs = torch.randn(64, 8)
        loss = (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        state = {
            "model": model.state_dict(),
            "optimizer": optimiser.state_dict(),
            "rng": torch.get_rng_state(),
            "epoch": epoch + 1,
        }
        torch.save(state, path)
    return loss.item()


with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)
    at_once = train(folder / "at-once.pt", epochs=10)
    train(folder / "last.pt", epochs=5)
    resumed = train(folder / "last.pt", epochs=5)
    print(
        f"loss after 10 epochs: {at_once:.6f}; after 5, a restart and 5: {resumed:.6f}"
    )
    assert at_once == resumed
