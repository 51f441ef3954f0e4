"""Real model files, protected and restored: no false alarm, nothing lost."""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch

from safemodel import SafeModelError, protect, restore, rotate, verify
from tests.unit.protect.helpers_anatomy import refusal_by_dissect
from tests.unit.protect.helpers_protect import KEY, OTHER


def test_every_file_of_the_zoo(zoo, tmp_path):
    """Each that can be protected holds, opens elsewhere, and comes back."""
    done = refused = 0
    for path in sorted(zoo.joinpath("files").rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if refusal_by_dissect(data) is not None:
            refused += refused_too(data, tmp_path)
            continue
        check(data, tmp_path, confidential=bool(done % 2), turn=done % 4 == 0)
        done += 1
    assert done > 90
    assert refused > 0


def refused_too(data: bytes, folder: Path) -> int:
    """Return 1 for a file that is refused and leaves nothing."""
    try:
        protect(data, folder / "p", key=KEY)
    except SafeModelError:
        return 1
    finally:
        assert list(folder.iterdir()) == []
    return 0


def check(data: bytes, folder: Path, *, confidential: bool, turn: bool) -> None:
    """Assert that a file survives all verbs, and stays small."""
    made, turned, back = (folder / name for name in ("made", "turned", "back"))
    report = protect(data, made, key=KEY, confidential=confidential)
    assert made.stat().st_size <= len(data) * 1.005 + (64 << 10)
    verify(made, key=KEY)
    if report.format == "torch":
        torch.load(made, weights_only=True)
    else:
        with safetensors.safe_open(made, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                file.get_tensor(name)
    restore(made, back, key=KEY)
    assert back.read_bytes() == data
    if turn:
        rotate(made, turned, key=KEY, new_key=OTHER)
        restore(turned, back, key=OTHER, overwrite=True)
        assert back.read_bytes() == data
    for path in folder.iterdir():
        path.unlink()
