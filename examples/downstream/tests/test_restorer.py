"""The tests of the project: none of them could be opened by a hostile file."""

from pathlib import Path

import pytest
import torch
from restorer import make_model, resume, save

import safemodel
from safemodel.testing import HostileModel, assert_refuses, assert_safe


@pytest.mark.filterwarnings("ignore::safemodel.SafeModelWarning")
def test_resume_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was saved comes back, although the code asks for weights_only=False."""
    model, again = make_model(), make_model()
    save(tmp_path / "last.pt", model, step=7)

    assert resume(tmp_path / "last.pt", again) == 7
    for left, right in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.filterwarnings("ignore::safemodel.SafeModelWarning")
def test_resume_refuses_hostile_checkpoints(hostile_model: HostileModel) -> None:
    """Nothing of any hostile file runs, however it is made."""
    assert_refuses(lambda path: resume(Path(path), make_model()), hostile_model.path)


def test_what_we_publish_is_safe(tmp_path: Path) -> None:
    """The files that this project ships would open anywhere."""
    save(tmp_path / "release.pt", make_model(), step=0)

    assert_safe(tmp_path)


@pytest.mark.safemodel_allow_unsafe(reason="made in this very test")
def test_whole_modules_of_our_own(tmp_path: Path) -> None:
    """What only torch can read, and only because we wrote it a moment ago."""
    torch.save(make_model(), tmp_path / "whole.pt")

    assert isinstance(
        torch.load(tmp_path / "whole.pt", weights_only=False), torch.nn.Module
    )


def test_whole_modules_of_others(tmp_path: Path) -> None:
    """Come back as data, with their weights."""
    torch.save(model := make_model(), tmp_path / "whole.pt")

    with pytest.warns(safemodel.SafeModelWarning):
        found = torch.load(tmp_path / "whole.pt", weights_only=False)

    weights = safemodel.state_dict(found)
    assert torch.equal(weights["0.weight"], model[0].weight)
