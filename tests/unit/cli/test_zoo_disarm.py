"""A real model and a hostile twin, disarmed from the command line, with reports."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from safemodel._cli import main
from safemodel.reports import DisarmReport
from tests.unit.disarm.helpers_disarm import differences
from tests.unit.disarm.test_html_report import HARMLESS
from tests.unit.helpers_page import Page

MODEL = "PPO_preTrained/CartPole-v1/PPO_CartPole-v1_0_0.pth"
PAYLOAD = b"cos\nsystem\nX\x0a\x00\x00\x00touch ran;\x85R0"


@pytest.fixture(scope="module")
def models(zoo, tmp_path_factory) -> tuple[Path, Path]:
    """Return a file of the zoo, and one that runs a command in front of its weights."""
    model = zoo / "files" / "nikhilbarhate99+PPO-PyTorch" / MODEL
    twin = tmp_path_factory.mktemp("twin") / "twin.pth"
    with zipfile.ZipFile(model) as source, zipfile.ZipFile(twin, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/data.pkl"):
                data = data[:2] + PAYLOAD + data[2:]
            target.writestr(name, data)
        target.writestr("archive/</title><script>hidden.py", "print('hidden')")
    return model, twin


@pytest.mark.parametrize("form", ["pt", "safetensors"])
@pytest.mark.parametrize("hostile", [False, True])
def test_a_model_and_its_hostile_twin_come_out_alike(
    models, tmp_path, monkeypatch, capsys, form, hostile
):
    """Bit for bit the weights of the model; both reports say what was removed."""
    monkeypatch.chdir(tmp_path)
    model, twin = models
    source = str(twin if hostile else model)
    out = f"out.{form}"
    arguments = ["--report", "r.json", "--html", "r.html"]
    assert main(["scan", source]) == int(hostile)
    assert main(["disarm", source, out, *arguments]) == 0
    assert main(["scan", out]) == 0
    report = DisarmReport.from_dict(json.loads(Path("r.json").read_text()))
    page = Page(Path("r.html").read_text(encoding="utf-8"))
    expected = torch.load(model, weights_only=True, map_location="cpu")
    assert [one.name for one in report.tensors] == list(expected)
    if form == "pt":
        written = torch.load(out, weights_only=True)
        assert differences(dict(expected), dict(written)) == []
    assert set(page.tags) <= HARMLESS
    assert all(name in page.text for name in expected)
    assert report.result.sha256 in page.text
    assert "No call and no name to remove;" in page.text or hostile
    if hostile:
        assert [one.name for one in report.removed if one.opcode] == ["os.system"]
        assert "1 call removed; 12 tensors kept bit for bit" in page.text
        assert "would call os.system('touch ran;')" in page.text
        assert "</title><script>hidden.py" in page.text
    assert not Path("ran").exists()
    assert "os.system" in capsys.readouterr().out or not hostile
