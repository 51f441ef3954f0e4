"""A program in a real model: found where it is, taken out, and gone after a scrub.

The model is of the training side (training/split.csv), and so is everything here that
could depend on what real weights are like.
"""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from safemodel import safe_load
from safemodel._cli import main
from safemodel.evaluation import stego

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = "cszn/KAIR"
FILE = "files/cszn+KAIR/model_zoo/dncnn_25.pth"
PROGRAM = Path("/bin/ls")


@pytest.fixture(scope="module")
def model(zoo):
    """Return a real model of the training side."""
    with (ROOT / "training" / "split.csv").open(encoding="utf-8") as file:
        sides = {row["repo"]: row["side"] for row in csv.DictReader(file)}
    assert sides[REPOSITORY] == "train"
    return zoo / FILE


@pytest.mark.parametrize("bits", [4, 8])
def test_a_program_in_a_real_model_is_named_taken_out_and_removed(
    model, tmp_path, monkeypatch, capsys, bits
):
    """The tensors it is in, its bytes, and neither once the bits are scrubbed."""
    if not PROGRAM.is_file():
        pytest.skip(f"no {PROGRAM} on this machine")
    monkeypatch.chdir(tmp_path)
    program = PROGRAM.read_bytes()
    method = stego.Lsb(bits=bits, start=1_640)
    embedding = stego.hide(model, "model.pt", program, method)
    assert main(["detect", str(model)]) == 0
    capsys.readouterr()

    assert main(["detect", "model.pt", "--extract", "out", "--json"]) == 1
    (file,) = json.loads(capsys.readouterr().out)["files"]
    found = file["detection"]
    named = {one["name"] for one in found["by_tensor"] if one["suspicious"]}
    sizes = {one["name"]: one["size"] for one in found["by_tensor"]}
    # A bias of 64 numbers says nothing by itself, nor does a tensor that is used in
    # its first part only: the last one.
    full = {
        span.tensor
        for span in embedding.where
        if sizes[span.tensor] >= 4096 and 2 * span.weights >= sizes[span.tensor]
    }
    assert full
    assert full <= named <= {span.tensor for span in embedding.where}
    assert found["bits"] == bits
    assert found["candidates"][0]["start"] == embedding.where[0].start
    assert found["candidates"][0]["tensor"] == embedding.where[0].tensor
    assert Path(file["extracted"][0]["path"]).read_bytes() == program

    assert main(["detect", "model.pt"]) == 1
    command = re.findall(r"safemodel (disarm .*)", capsys.readouterr().out)[0]
    assert command.endswith(f"--scrub-bits {bits}")
    assert main(shlex.split(command)) == 0
    capsys.readouterr()
    assert main(["detect", "model-scrubbed.pt", "--extract", "again"]) == 0
    assert not Path("again").exists()
    before, after = safe_load("model.pt"), safe_load("model-scrubbed.pt")
    left = stego.recovery(before, after, program, method)
    assert not left.recovered
    assert left.bit_error_rate == pytest.approx(0.5, abs=0.01)
