"""Take the weights out of a pickled module whose class is not installed.

``torch.save(model)`` stores the module itself, and loading it usually needs the code
it was written with. `state_dict` reads the weights without that code.
"""

import sys
import tempfile
import types
from pathlib import Path

import torch

from safemodel import safe_load, state_dict


def save_with_a_class_that_goes_away(path: Path) -> dict[str, torch.Tensor]:
    """Save a module of a package, uninstall the package, return the weights."""
    package = types.ModuleType("somebodys_detector")

    class Detector(torch.nn.Module):
        """A model of somebody else."""

        def __init__(self) -> None:
            super().__init__()
            self.backbone = torch.nn.Conv2d(3, 8, 3)
            self.norm = torch.nn.BatchNorm2d(8)

    Detector.__module__, Detector.__qualname__ = package.__name__, "Detector"
    vars(package)["Detector"] = Detector
    sys.modules[package.__name__] = package
    model = Detector()
    torch.save({"model": model, "epoch": 3}, path)
    del sys.modules[package.__name__]
    return dict(model.state_dict())


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "detector.pt"
    expected = save_with_a_class_that_goes_away(file)

    checkpoint = safe_load(file, weights_only=False)  # opaque, never executed
    print(type(checkpoint["model"]).__name__, checkpoint["model"].qualified_name)
    weights = state_dict(checkpoint["model"])

    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    for name, tensor in weights.items():
        print(f"{name:32} {tuple(tensor.shape)}")
