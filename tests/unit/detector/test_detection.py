"""`detect`: what goes in, what comes out, and how it is written down."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors.torch import save_file

import safemodel
from safemodel import Detection, Detector, ProtectionKey, Verdict, detect, protect
from safemodel._detector.estimating import replaced_bits
from safemodel.detection import Candidate, Evidence, extract
from safemodel.errors import KeyRequiredError, MalformedFileError
from safemodel.evaluation import stego
from tests.unit.detector.helpers_detection import encrypted, weights_like
from tests.unit.detector.helpers_detector import program
from tests.unit.scan.helpers_scan import EVIL

SCHEMA = json.loads(
    (Path(safemodel.__file__).parent / "_report/detection.schema.json").read_text()
)
SIZES = {"a.weight": 70_000, "a.bias": 300, "b.weight": 30_000}


def problems(members):
    """Return what a JSON form breaks of the schema."""
    return list(Draft202012Validator(SCHEMA).iter_errors(members))


@pytest.fixture(scope="module")
def plain():
    """Return weights with nothing in them."""
    from tests.conftest import Rand

    return weights_like(Rand(5), SIZES)


@pytest.fixture(scope="module")
def hidden(plain):
    """Return the same weights with a program in the four low bits of the first."""
    data = program(20_000)
    return stego.embed(plain, data, stego.Lsb(bits=4))[0], data


def test_nothing_found_is_no_evidence_and_no_more(plain):
    """Neither true nor false, and never the word that people would like to read."""
    found = detect(plain)
    assert found.verdict is Verdict.NO_EVIDENCE
    assert (found.evidence, found.candidates, found.bits) == ((), (), 0)
    assert found.score < found.threshold
    assert found.false_positive_rate == Detector.bundled().false_positive_rate
    assert 0 < found.false_positive_rate < 0.02
    assert found.blind_spot.bytes > 0
    with pytest.raises(TypeError, match="Verdict"):
        bool(found)
    assert "clean" not in str(found)
    assert "no proof" in str(found).splitlines()[-1]


def test_a_program_is_found_where_it_is(hidden):
    """The right tensor, the number of bits, and the bytes themselves."""
    weights, data = hidden
    found = detect(weights)
    assert found.verdict is Verdict.SUSPICIOUS
    assert found.score >= found.threshold
    assert [one.name for one in found.by_tensor if one.suspicious] == ["a.weight"]
    assert found.bits == found.by_tensor[0].bits == 4
    assert found.candidates[0].kind == "ELF"
    assert extract(weights, found.candidates[0], length=len(data)) == data
    assert [one.name for one in found.by_tensor] == list(SIZES)
    assert [one.size for one in found.by_tensor] == list(SIZES.values())
    assert str(found).splitlines()[-1].startswith("Suspicious in about 4 low bits")


def test_every_way_in_says_the_same(hidden, tmp_path):
    """A mapping, a module, files of each format, bytes, a stream, a folder."""
    weights, _ = hidden
    expected = [one.name for one in detect(weights).by_tensor if one.suspicious]
    torch.save(weights, tmp_path / "zip.pt")
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "one.safetensors")
    np.savez(tmp_path / "arrays.npz", **{k: v.numpy() for k, v in weights.items()})
    for path in tmp_path.iterdir():
        found = detect(path)
        assert [one.name for one in found.by_tensor if one.suspicious] == expected, path
        assert found.path == str(path)
        assert found.size == path.stat().st_size
    data = (tmp_path / "zip.pt").read_bytes()
    stream = io.BytesIO(b"before" + data)
    stream.seek(6)
    for given in (data, stream):
        found = detect(given)
        assert (found.path, found.format) == ("", "torch zip archive")
        assert found.verdict is Verdict.SUSPICIOUS
    assert stream.tell() == 6 + len(data)


def test_a_module_is_looked_at_as_it_is(hidden):
    """Its parameters and buffers; nothing of it is called."""
    weights, _ = hidden
    module = torch.nn.Linear(300, 70_000 // 300)
    with torch.no_grad():
        module.weight.copy_(
            weights["a.weight"][: module.weight.numel()].reshape(-1, 300)
        )
    module.register_buffer("steps", torch.tensor(3))
    found = detect(module)
    assert found.format == "module"
    assert {one.name: one.role for one in found.by_tensor} == {
        "weight": "weight", "bias": "weight", "steps": "buffer",
    }  # fmt: skip
    assert [one.name for one in found.by_tensor if one.suspicious] == ["weight"]


def test_a_folder_of_shards_is_one_model(hidden, tmp_path):
    """Its index says which; without one, nobody knows what belongs together."""
    weights, _ = hidden
    save_file({"a.weight": weights["a.weight"]}, tmp_path / "one.safetensors")
    rest = {name: weights[name] for name in ("a.bias", "b.weight")}
    save_file(rest, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="index"):
        detect(tmp_path)
    where = dict.fromkeys(rest, "two.safetensors") | {"a.weight": "one.safetensors"}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    found = detect(tmp_path)
    assert {one.name for one in found.by_tensor} == set(SIZES)
    assert [one.name for one in found.by_tensor if one.suspicious] == ["a.weight"]
    whole = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert found.size == whole


def test_what_a_file_would_run_is_no_reason_not_to_look():
    """And nothing of it runs: the vector would have called a shell."""
    found = detect(EVIL)
    assert found.verdict is Verdict.NO_EVIDENCE


def test_what_is_no_model_is_an_error(tmp_path):
    """Broken, protected, or of a kind that cannot be looked at."""
    with pytest.raises(MalformedFileError):
        detect(b"PK\x03\x04" + bytes(100))
    protect({"w": torch.ones(8)}, tmp_path / "p.pt", key=ProtectionKey.generate())
    with pytest.raises(KeyRequiredError):
        detect(tmp_path / "p.pt")
    with pytest.raises(TypeError):
        detect(3)
    with pytest.raises(FileNotFoundError):
        detect(tmp_path / "missing")


@pytest.mark.parametrize(
    ("detector", "error"), [("x-rays", ValueError), (3, TypeError), ("", ValueError)]
)
def test_a_detector_is_one_of_those_there_are(plain, detector, error):
    """Anything else is the caller's mistake, and is said before anything is read."""
    with pytest.raises(error):
        detect(plain, detector=detector)


def test_the_bundled_detector_says_what_it_is(plain):
    """Its id is that of the detection, and so is its threshold."""
    detector = Detector.bundled()
    found = detect(plain, detector=detector)
    assert (found.detector_id, found.threshold) == (detector.id, detector.threshold)
    assert detector.id in repr(detector)


def test_a_detection_keeps_to_its_schema_and_comes_back(plain, hidden):
    """Real ones: of nothing, of a program, of a comparison."""
    weights, _ = hidden
    Draft202012Validator.check_schema(SCHEMA)
    every = [detect(plain), detect(weights), detect(weights, reference=plain)]
    assert every[2].changes
    for found in every:
        members = json.loads(found.to_json())
        assert problems(members) == []
        assert Detection.from_dict(members) == found
    with pytest.raises(ValueError, match="schema"):
        Detection.from_dict({**every[0].to_dict(), "schema": 2})
    for wrong in (
        {"verdict": "clean"}, {"score": 2}, {"evidence": [{}]}, {"changes": [{}]},
        {"by_tensor": [{}]}, {"blind_spot": {}}, {"candidates": None}, {"schema": 2},
    ):  # fmt: skip
        assert problems({**every[1].to_dict(), **wrong}), wrong


def test_the_schema_asks_for_every_member_there_is(plain, hidden):
    """A new one must be described."""
    found = detect(hidden[0], reference=plain).to_dict()
    parts = {
        "detection": found, "evidence": found["evidence"][0],
        "tensor": found["by_tensor"][0], "candidate": found["candidates"][0],
        "change": found["changes"][0], "blind_spot": found["blind_spot"],
        "room": found["blind_spot"]["rooms"][0],
        "remedy": found["blind_spot"]["remedies"][0],
    }  # fmt: skip
    for name, members in parts.items():
        described = SCHEMA["$defs"][name]
        assert (
            set(described["required"]) == set(described["properties"]) == set(members)
        )


def test_the_documentation_has_every_member_and_no_other():
    """The tables of its section on JSON, and the schema."""
    page = (Path(__file__).parents[3] / "docs/detect.md").read_text(encoding="utf-8")
    section = page.split("## JSON\n")[1].split("\n## ")[0]
    named: set[str] = set()
    for row in section.splitlines():
        cells = row.split("|")
        if len(cells) == 5:
            named.update(re.findall(r"`(\w+)`", cells[1]))
        elif len(cells) == 6:
            named.update(re.findall(r"`(\w+)`", cells[2]))
    described = [one["properties"] for one in SCHEMA["$defs"].values()
                 if "properties" in one]  # fmt: skip
    assert named == set().union(*described)


def test_no_number_of_a_detection_is_one_that_json_lacks():
    """However odd the numbers of a file are: NaN, infinities, the largest there are."""
    words = np.tile(
        np.array([0x7FF0000000000000, 0x7FF8000000000001, 0x7FEFFFFFFFFFFFFF, 1], "u8"),
        1000,
    )
    odd = {"a": words.view("f8"), "b": words.view("f8")[::-1].copy()}
    for number in _numbers(detect(odd).to_dict()):
        assert math.isfinite(number)


def _numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, float):
        yield value


def test_names_of_a_file_do_not_reach_a_terminal(hidden):
    """Escape sequences in the name of a tensor are shown as what they are."""
    weights, _ = hidden
    name = "\x1b[2J\u202eweight"
    text = str(detect({name: weights["a.weight"]}))
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[2J" in text


def test_a_candidate_that_is_nowhere_is_an_error(plain):
    """No such tensor, no such weight, or a length that is none."""
    one = Candidate(
        kind="ELF", tensor="a.bias", start=0, skip=0, bits=8, order="high-first",
        length=0, entropy=1.0, compressed=1.0,
    )  # fmt: skip
    words = plain["a.bias"].numpy().view("u4")
    rest = plain["b.weight"].numpy().view("u4")
    low = np.concatenate((words, rest)).astype("u1").tobytes()
    assert extract(plain, one) == low
    assert extract(plain, one, length=7) == low[:7]
    for members in ({"tensor": "c"}, {"start": 300}):
        with pytest.raises(ValueError, match="no weight"):
            extract(plain, Candidate(**{**vars(one), **members}))
    with pytest.raises(ValueError, match="negative"):
        extract(plain, one, length=-1)


def test_bits_come_from_the_most_exact_evidence():
    """A reference before a signature, that before the strongest statistic."""

    def evidence(test, bits, p_value):
        return Evidence(
            test=test, what="", tensor="", start=0, end=0, statistic=0.0, effect=0.0,
            bits=bits, p_value=p_value,
        )  # fmt: skip

    made = [
        evidence("low-byte", 8, 0.0), evidence("signature", 8, 1e-30),
        evidence("signature", 16, 1e-30), evidence("reference", 4, 1e-20),
    ]  # fmt: skip
    assert replaced_bits(made) == 4
    assert replaced_bits(made[:3]) == 16
    assert replaced_bits(made[:1]) == 8
    assert replaced_bits([evidence("nan", 0, 0.0)]) == 0


def test_encrypted_data_in_eight_bits_is_not_seen(plain):
    """And the blind spot says so: that is the limit of any test, not of this one."""
    data = encrypted(50_000)
    weights = stego.embed(plain, data, stego.Lsb(bits=8))[0]
    found = detect(weights)
    assert found.verdict is Verdict.NO_EVIDENCE
    assert found.blind_spot.bits["float32"] >= 8
    assert found.blind_spot.bytes >= len(data)
