"""`safemodel detect`: what it prints, writes and returns."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from safemodel import Detection, Detector
from safemodel._cli import main
from safemodel._detector import extracting, many
from safemodel._report.detect_text import evidence_texts
from safemodel._report.words import score_text
from safemodel._scan import workers
from safemodel._scan.paths import Target
from safemodel._scan.workers import _Worker
from safemodel.evaluation import stego
from tests.conftest import Rand
from tests.unit.cli.helpers_terminal import in_terminal
from tests.unit.detector.helpers_detection import weights_like
from tests.unit.detector.helpers_detector import program

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SIZES = {"a.weight": 40_000, "b.weight": 30_000}


@pytest.fixture(scope="module")
def weights():
    """Return weights, the same with a program in them, and the program."""
    plain = weights_like(Rand(5), SIZES)
    data = program(30_000)
    return plain, stego.embed(plain, data, stego.Lsb(bits=8))[0], data


@pytest.fixture
def folder(tmp_path, monkeypatch, weights):
    """Return a folder with a good, a bad and a broken file, and a page of text."""
    plain, hidden, _ = weights
    models = tmp_path / "models"
    models.mkdir()
    torch.save(plain, models / "good.pt")
    torch.save(hidden, models / "bad.pt")
    (models / "broken.pt").write_bytes((models / "good.pt").read_bytes()[:9000])
    (models / "README.md").write_text("# models\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_several_tests_say_is_said_once():
    """With how many they are; the others are counted as tests, not as lines."""
    one = {"tensor": "a", "start": 0, "end": 1000, "what": "odd", "p_value": 0.5}
    evidence = [SimpleNamespace(**{**one, "start": at}) for at in (0, 7, 0, 8, 8, 0)]
    assert evidence_texts(evidence) == [
        ("a from 0 to 1,000: odd (p = 0.5; 3 tests)", 3),
        ("a from 7 to 1,000: odd (p = 0.5)", 1),
        ("a from 8 to 1,000: odd (p = 0.5; 2 tests)", 2),
    ]


def test_lines_of_evidence_are_all_different(folder, capsys):
    """And together they are all tests."""
    assert main(["detect", "models/bad.pt"]) == 1
    out = capsys.readouterr().out
    lines = re.findall(r"^  .*\(p .*\)$", out, flags=re.MULTILINE)
    assert len(lines) == len(set(lines)) > 1
    tests = sum(int((re.findall(r"; (\d+) tests", one) or [1])[0]) for one in lines)
    more = sum(map(int, re.findall(r"\.\.\. (\d+) more; the JSON", out)))
    assert f"evidence     {tests + more} tests\n" in out


def test_a_file_is_shown_as_a_whole(folder, capsys):
    """What speaks against it, where its blind spot is, and the verdict last."""
    assert main(["detect", "models/bad.pt"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("file         models/bad.pt: torch zip archive, ")
    assert any("a.weight" in line for line in lines if line.startswith("tensors"))
    assert any(line.startswith("blind spot") for line in lines)
    command = "safemodel disarm models/bad.pt models/bad-scrubbed.pt --scrub-bits"
    assert any(command in line for line in lines)
    assert lines[-1].startswith("Suspicious in about 8 low bits of each weight")
    assert main(["detect", "models/good.pt"]) == 0
    assert "That is no proof" in capsys.readouterr().out.splitlines()[-1]


def test_a_folder_is_a_line_a_file_and_what_it_rests_on(folder, capsys):
    """The suspicious one counts most; text beside models does not count."""
    assert main(["detect", "models"]) == 1
    out = capsys.readouterr().out
    starts = (
        "models/bad.pt: suspicious (8 low bits, score ",
        "models/good.pt: no evidence (score ",
        "models/broken.pt: refused (",
        "models/README.md: no model (a plain text file)",
    )
    assert all(f"\n{start}" in f"\n{out}" for start in starts)
    summary = "4 files: 1 suspicious, 1 no evidence, 1 refused, 1 no model"
    assert out.splitlines()[-1] == summary
    assert main(["detect", "-q", "models"]) == 1
    quiet = capsys.readouterr().out
    assert quiet.startswith("models/bad.pt: suspicious")
    assert "good.pt" not in quiet
    assert "4 files" not in quiet
    assert main(["detect", "-v", "models"]) == 1
    assert capsys.readouterr().out.count("blind spot   up to") == 2


@pytest.mark.parametrize(
    ("names", "code"),
    [(["good.pt"], 0), (["good.pt", "README.md"], 0), (["README.md"], 0),
     (["good.pt", "broken.pt"], 2), (["missing.pt"], 2), (["bad.pt", "broken.pt"], 1)],
)  # fmt: skip
def test_what_is_suspicious_counts_more_than_what_is_not_known(folder, names, code):
    """And what nobody would load counts for nothing."""
    assert main(["detect", *(f"models/{name}" for name in names)]) == code


def test_json_has_every_detection_and_every_error(folder, capsys):
    """One document, whatever became of a file."""
    assert main(["detect", "models", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    found = {one["path"]: one for one in document["files"]}
    assert document["schema"] == 1
    assert {path: one["verdict"] for path, one in found.items()} == {
        "models/README.md": "no model", "models/bad.pt": "suspicious",
        "models/broken.pt": "refused", "models/good.pt": "no evidence",
    }  # fmt: skip
    detection = Detection.from_dict(found["models/bad.pt"]["detection"])
    assert detection.bits == 8
    broken = found["models/broken.pt"]
    assert broken["detection"] is None
    assert broken["error"] == "MalformedFileError"
    assert broken["message"]
    assert document["summary"] == {
        "suspicious": 1, "no evidence": 1, "refused": 1, "unsupported": 0,
        "unreadable": 0, "no model": 1, "exit_code": 1,
    }  # fmt: skip


def timeless(out):
    """Return a JSON document without what depends on the clock."""
    document = json.loads(out)
    for one in document["files"]:
        if one["detection"]:
            one["detection"]["seconds"] = 0
    return document


def test_several_processes_say_what_one_says(folder, capsys):
    """In the same order."""
    assert main(["detect", "models", "models/missing", "--json"]) == 1
    alone = timeless(capsys.readouterr().out)
    assert main(["detect", "models", "models/missing", "--json", "-j", "2"]) == 1
    assert timeless(capsys.readouterr().out) == alone


class Fragile(_Worker):
    """A process that is killed whenever it is asked about a certain file."""

    def scan(self, paths):
        """Kill it first, if the file is among those."""
        if any(path.endswith("good.pt") for path in paths):
            self._process.kill()
            self._process.wait()
        return super().scan(paths)


def test_a_process_that_ends_costs_one_file(folder, monkeypatch, capsys):
    """It is unreadable; the others are not."""
    monkeypatch.setattr(workers, "_Worker", Fragile)
    assert main(["detect", "models", "-j", "2"]) == 1
    out = capsys.readouterr().out
    assert "models/good.pt: unreadable (the process that looked at it ended" in out
    assert "models/bad.pt: suspicious" in out


def test_candidates_are_extracted_byte_for_byte(folder, weights, capsys):
    """Nothing is replaced, only the user may read it, and nobody run it."""
    _, _, data = weights
    for number in range(2):
        assert main(["detect", "models", "--extract", "out"]) == 1
        name = "bad.pt-1.bin" if number == 0 else "bad.pt-1.1.bin"
        written = folder / "out" / name
        assert data.startswith(written.read_bytes()[: len(data)])
        assert written.stat().st_size >= 1
        assert stat.S_IMODE(written.stat().st_mode) == 0o600
        assert f"extracted out/{name}" in capsys.readouterr().out
    assert stat.S_IMODE((folder / "out").stat().st_mode) == 0o700
    assert main(["detect", "models/bad.pt", "--extract", "out", "--json"]) == 1
    one = json.loads(capsys.readouterr().out)["files"][0]["extracted"][0]
    assert (one["candidate"], one["path"]) == (0, "out/bad.pt-1.2.bin")
    assert one["size"] == (folder / one["path"]).stat().st_size


def test_extraction_that_fails_leaves_nothing_half(folder, monkeypatch, capsys):
    """The folder is a file; or the disk is full in the middle."""
    (folder / "taken").write_text("x")
    assert main(["detect", "models/bad.pt", "--extract", "taken"]) == 2
    assert "unreadable" in capsys.readouterr().out

    def full(*_, **__):
        yield b"some"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(extracting, "pieces_extracted", full)
    assert main(["detect", "models/bad.pt", "--extract", "out"]) == 2
    assert "No space left on device" in capsys.readouterr().out
    assert list((folder / "out").iterdir()) == []


def test_a_link_is_not_written_through(folder):
    """A name that is there, whatever it is, is passed over."""
    (folder / "out").mkdir()
    (folder / "out" / "bad.pt-1.bin").symlink_to(folder / "elsewhere")
    assert main(["detect", "models/bad.pt", "--extract", "out"]) == 1
    assert not (folder / "elsewhere").exists()
    assert (folder / "out" / "bad.pt-1.1.bin").is_file()


def test_a_reference_is_compared_with_every_file(folder, capsys):
    """What it cannot be is said before anything is looked at."""
    assert main(["detect", "models/bad.pt", "--reference", "models/good.pt"]) == 1
    out = capsys.readouterr().out
    assert "reference    models/good.pt: " in out
    assert "numbers differ from the reference, 100 % of them in their 8" in out
    for wrong in ("models/broken.pt", "missing"):
        assert main(["detect", "models/bad.pt", "--reference", wrong]) == 2
        printed = capsys.readouterr()
        assert not printed.out
        assert wrong in printed.err


def test_the_published_detector_can_be_asked(folder, capsys):
    """It knows no false positive rate, and no tensor."""
    code = main(["detect", "models/bad.pt", "--detector", "x-ray", "--json"])
    found = json.loads(capsys.readouterr().out)["files"][0]["detection"]
    assert code == (found["verdict"] == "suspicious")
    assert found["detector_id"].startswith("x-ray")
    assert found["false_positive_rate"] is None
    assert found["blind_spot"]["bits"] == {"float32": 23}
    torch.save({"w": torch.ones(9, dtype=torch.int8)}, "models/int.pt")
    assert main(["detect", "models/int.pt", "--detector", "x-ray"]) == 2
    assert "no" in capsys.readouterr().out


def test_shards_are_one_model(folder, weights, capsys):
    """Their index stands for them; one that is broken does not."""
    _, hidden, _ = weights
    shards = folder / "shards"
    shards.mkdir()
    where = {}
    for name, one in hidden.items():
        file = f"{name[0]}.safetensors"
        save_file({name: one}, shards / file)
        where[name] = file
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    assert main(["detect", "shards", "--json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)["files"]
    assert one["path"] == "shards/model.safetensors.index.json"
    assert [t["name"] for t in one["detection"]["by_tensor"]] == list(SIZES)
    index.write_text("{}")
    assert main(["detect", "shards", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)["files"]) == 3


@pytest.mark.parametrize("columns", [80, 120])
def test_many_files_are_a_table_on_a_terminal(folder, columns):
    """As wide as it is; the suspicious in colour."""
    seen, code = in_terminal(["detect", "models"], str(folder), columns=columns)
    assert code == 1
    assert "\x1b[1;31msuspicious" in seen
    lines = CONTROL.sub("", seen.split("looking")[-1]).splitlines()
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert "what speaks against it" in text
    assert "4 files: 1 suspicious, 1 no evidence, 1 refused, 1 no model" in text
    assert "No evidence is no proof" in text


def test_one_file_is_shown_as_a_whole_on_a_terminal(folder):
    """The same lines as elsewhere, wrapped."""
    seen, code = in_terminal(["detect", "models/bad.pt"], str(folder), columns=80)
    assert code == 1
    lines = CONTROL.sub("", seen.split("looking")[-1]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1].startswith("Suspicious in about 8 low bits of each weight")


def test_names_of_files_do_not_reach_a_terminal(folder, capsys):
    """Escape sequences are shown as what they are."""
    Path("models/\x1b[2Jx.pt").write_bytes(Path("models/bad.pt").read_bytes())
    main(["detect", "models", "--extract", "out"])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert all(re.fullmatch(r"[\w.-]+", path.name) for path in Path("out").iterdir())


def test_jobs_and_detectors_must_be_such(folder, capsys):
    """argparse says so; of a file, what is wrong with it."""
    with pytest.raises(SystemExit) as caught:
        main(["detect", "models", "-j", "0"])
    assert caught.value.code == 2
    capsys.readouterr()
    for wrong in ("magic", "models/good.pt"):
        assert main(["detect", "models", "--detector", wrong]) == 2
        printed = capsys.readouterr()
        assert wrong in printed.err
        assert not printed.out


def test_a_detector_comes_from_a_file(folder, capsys):
    """As it was saved; its id is that of the detection, in several processes, too."""
    Detector.bundled().save("mine.safetensors")
    arguments = ["detect", "models/good.pt", "models/bad.pt", "--json", "-j", "2"]
    assert main([*arguments, "--detector", "mine.safetensors"]) == 1
    for one in json.loads(capsys.readouterr().out)["files"]:
        assert one["detection"]["detector_id"] == Detector.bundled().id


def test_what_is_written_is_bounded(folder, weights, monkeypatch):
    """A head may claim any length, and there may be many heads."""
    monkeypatch.setattr(extracting, "MOST", 1)
    found = many.detect_target(Target("models/bad.pt"), many.How(extract="out"))
    assert found.detection is not None
    assert len(found.extracted) == 1

    def endless(*_, **__):
        while True:
            yield bytes(1 << 20)

    monkeypatch.setattr(extracting, "pieces_extracted", endless)
    found = many.detect_target(Target("models/bad.pt"), many.How(extract="out"))
    assert found.extracted[0].size == 8 * sum(SIZES.values())


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0.000"),
        (0.4996, "0.499"),
        (0.5, "0.500"),
        (0.57, "0.570"),
        (1.0, "1.000"),
    ],
)
def test_a_score_below_a_threshold_is_not_printed_as_it(score, text):
    """Rounded to the nearest, 0.4996 stood beside "no evidence" as 0.500."""
    assert score_text(score) == text
