"""`safemodel inspect`: what it prints and how it ends."""

from __future__ import annotations

import json

import pytest
import torch

from safemodel import __version__
from safemodel._cli import main
from tests.unit.scan.helpers_scan import EVIL


@pytest.fixture
def path(tmp_path):
    """Return a checkpoint of two tensors."""
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(2, 3), "n": torch.tensor(1)}, path)
    return path


def test_tensors_stand_in_columns(path, capsys):
    """Name, dtype, shape, bytes; then the globals."""
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{path}: torch zip archive, ")
    assert lines[2:5] == [
        "2 tensors, 32 bytes",
        "  w  float32  2x3     24 bytes",
        "  n  int64    scalar  8 bytes",
    ]
    assert lines[6:8] == ["4 globals", "  torch._utils._rebuild_tensor_v2"]


def test_names_outside_the_allowlist_are_marked(tmp_path, capsys):
    """Opaque mode refuses nothing: 0, and what would have run is there."""
    path = tmp_path / "evil.pt"
    path.write_bytes(EVIL)
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "  os.system  (outside the allowlist)" in out
    assert "  danger  would call os.system('echo hi')  [@27 REDUCE]\n" in out


def test_json_is_the_report(path, capsys):
    """The same as `inspect_file` gives."""
    assert main(["inspect", "--json", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [tensor["shape"] for tensor in report["tensors"]] == [[2, 3], []]


@pytest.mark.parametrize(
    ("content", "code"), [(b"\x80\x02}", 1), (b"just text", 2), (None, 2)]
)
def test_what_cannot_be_shown_ends_otherwise(tmp_path, capsys, content, code):
    """1 where it is refused or broken, 2 where it is not read at all."""
    path = tmp_path / "file\x1b.pt"
    if content is not None:
        path.write_bytes(content)
    assert main(["inspect", str(path)]) == code
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert (content is None) is bool(printed.err)


def test_the_version_is_that_of_the_package(capsys):
    """And asking for it ends with 0."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"safemodel {__version__}\n"
