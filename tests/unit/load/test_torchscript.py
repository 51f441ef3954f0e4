"""TorchScript archives: tensors and attributes as data, never their code."""

from __future__ import annotations

import io
import warnings
import zipfile

import pytest
import torch

from safemodel import Opaque, safe_load, state_dict
from tests.differential.reach import contents
from tests.differential.same import assert_same


class Scripted(torch.nn.Module):
    """A module with attributes of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(2, 3)
        self.register_buffer("mask", torch.arange(4))
        self.words = ["a", "b"]
        self.table = {"x": 1}
        self.ratio = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.ratio + torch.tensor([7.0, 8.0, 9.0])


@pytest.fixture
def scripted():
    """Return a module and the archive of its script."""
    module = Scripted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit wants to be rid of itself
        script = torch.jit.script(module)
        file = io.BytesIO()
        torch.jit.save(script, file)
    return module, file.getvalue()


def test_attributes_come_back_as_data(scripted):
    """By default too: the classes in it are the archive's own, and stay inert."""
    module, data = scripted
    for argument in (None, False):
        got = safe_load(data, weights_only=argument)
        root = got["data"]
        assert type(root) is Opaque
        assert root.qualified_name.endswith("Scripted")
        assert root["words"] == ["a", "b"]
        assert root["table"] == {"x": 1}
        assert root["ratio"] == 0.5
        assert_same(module.mask, root["mask"])
        assert torch.equal(module.fc.weight, root["fc"]["weight"])
        assert torch.equal(module.fc.bias, root["fc"]["bias"])


def test_every_storage_of_the_archive_is_in_the_result(scripted):
    """Those of its constants too."""
    _, data = scripted
    held = contents(safe_load(data))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [
            name
            for name in archive.namelist()
            if "/data/" in name or "/constants/" in name
        ]
        assert len(names) >= 3
        for name in names:
            assert archive.read(name) in held, name


def test_its_code_is_not_part_of_the_result(scripted):
    """Nor is anything but plain values, tensors and opaque ones."""
    _, data = scripted
    assert "forward" not in repr(safe_load(data))


def test_its_weights_come_out_as_a_state_dict(scripted):
    """TorchScript keeps parameters and children as plain attributes."""
    module, data = scripted

    weights = state_dict(safe_load(data))

    assert set(weights) == set(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert torch.equal(weights[name], tensor)
