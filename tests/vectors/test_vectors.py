"""Every vector: the outcome its header states, and nothing else happens."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import safemodel.errors
from safemodel.scanning import scan_files
from safemodel.testing import CANARY
from tests.vectors.assemble import Vector, VectorError, read_vector
from tests.vectors.outcome import WATCH, Outcome, load_outcome

HERE = Path(__file__).resolve().parent
VECTORS = [read_vector(path) for path in sorted(HERE.glob("*.vec"))]
LIGHT = [vector for vector in VECTORS if "heavy" not in vector.header]
HEAVY = [vector for vector in VECTORS if "heavy" in vector.header]
ATTACKS = HERE / "attacks.txt"
PAYLOAD = b"safemodel.testing\ntrip\n"
CHILD_HANG_S = 120
SPARE_BYTES = 64 << 20
BYTES_PER_STORAGE_BYTE = 4
BYTES_PER_PICKLE_BYTE = 100


def by_name(vector: Vector) -> str:
    return vector.name


def expected(vector: Vector, *, opaque: bool) -> str:
    """Return "opens" or the class of error a vector's header states for a mode."""
    strict = vector.header["expect"]
    if not opaque:
        return strict
    default = "opens" if strict == "ForbiddenGlobalError" else strict
    return vector.header.get("opaque", default)


# What the header must state about an error, beside its class.
STATED = {
    "ForbiddenGlobalError": "globals",
    "ForbiddenOpcodeError": "at",
    "LimitExceededError": "limit",
    "UnsupportedFormatError": "what",
}


def check(vector: Vector, outcome: Outcome, *, opaque: bool) -> None:
    """Require the outcome a header states, and that nothing else happened."""
    header, found = vector.header, outcome.attributes
    assert not outcome.tripped, "the payload ran"
    assert not outcome.events, "more than the input was touched"
    assert not outcome.modules, "modules were imported"
    wanted = expected(vector, opaque=opaque)
    assert outcome.error == ("" if wanted == "opens" else wanted), outcome.message
    if not outcome.error:
        result = header.get("opaque-result" if opaque else "result", None)
        result = header.get("result") if result is None else result
        assert result is None or outcome.result == result
    elif outcome.error == header["expect"]:
        _check_error(header, found)
    elif outcome.error == "LimitExceededError":
        assert found["limit"] == header["limit"]


def _check_error(header: dict[str, str], found: dict[str, object]) -> None:
    """Require what a header states about the error of the strict mode."""
    if header["expect"] == "ForbiddenGlobalError":
        named = [f"{module}.{name}" for module, name, _, _ in found["globals"]]
        assert named == header["globals"].split()
    elif "limit" in header:
        assert found["limit"] == header["limit"]
    if "at" in header:
        assert found["position"] == int(header["at"])
    for key in ("what", "reason"):
        assert header.get(key, "") in str(found.get(key, ""))


@pytest.fixture(scope="session", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what is imported lazily, so that a later import is the file's doing."""
    folder = tmp_path_factory.mktemp("warm")
    for vector in VECTORS:
        if vector.name in WARM:
            path = folder / vector.file_name
            path.write_bytes(vector.assemble())
            load_outcome(path, opaque=False)


# One benign file for every module that is imported late.
WARM = ("t01_view_that_fits", "n05_scalar_that_fits", "t14_coo_that_fits")


@pytest.mark.parametrize("opaque", [False, True], ids=["strict", "opaque"])
@pytest.mark.parametrize("vector", LIGHT, ids=by_name)
def test_a_vector_ends_as_its_header_says(vector, opaque, tmp_path, monkeypatch):
    """From a path: the stated class, position and result; nothing runs or opens."""
    path = tmp_path / vector.file_name
    path.write_bytes(vector.assemble())
    for setting in vector.header.get("environment", "").split():
        monkeypatch.setenv(*setting.split("="))
    options = {"mmap": True} if vector.header.get("load") == "mmap" else {}

    check(vector, load_outcome(path, opaque=opaque, **options), opaque=opaque)

    assert [item.name for item in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "vector", [v for v in LIGHT if "load" not in v.header], ids=by_name
)
def test_bytes_and_path_are_one_answer(vector):
    """From bytes in memory the outcome is the same, and no file is opened at all."""
    content = vector.assemble()
    for opaque in (False, True):
        check(vector, load_outcome(content, opaque=opaque), opaque=opaque)


@pytest.fixture(scope="session")
def child(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Path, bool], dict[str, object]]]:
    """Yield a function that loads a file in a process of its own."""
    warm = tmp_path_factory.mktemp("child") / "warm.pt"
    warm.write_bytes(_vector("t01_view_that_fits").assemble())
    process = subprocess.Popen(
        [sys.executable, str(HERE / "child.py"), str(warm)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def load(path: Path, opaque: bool) -> dict[str, object]:
        process.stdin.write(json.dumps({"path": str(path), "opaque": opaque}) + "\n")
        process.stdin.flush()
        answer: dict[str, object] = json.loads(process.stdout.readline())
        return answer

    yield load
    process.stdin.close()
    process.wait(CHILD_HANG_S)
    process.stdout.close()


def _vector(name: str) -> Vector:
    return next(vector for vector in VECTORS if vector.name == name)


@pytest.mark.parametrize("vector", HEAVY, ids=by_name)
def test_a_heavy_vector_stays_within_its_memory(vector, child, tmp_path):
    """In a child: the stated outcome, no crash, no hang, and memory that is bounded.

    The bound is the issue's: 64 MiB + 4 × storage bytes + 100 × pickle bytes.
    """
    content = vector.assemble()
    path = tmp_path / vector.file_name
    path.write_bytes(content)
    storage = int(vector.header.get("storage-bytes", "0"))
    allowed = (
        SPARE_BYTES
        + BYTES_PER_STORAGE_BYTE * storage
        + BYTES_PER_PICKLE_BYTE * (len(content) - storage)
    )
    for opaque in (False, True):
        answer = child(path, opaque)
        assert "died" not in answer, f"the process ended: {answer}"
        grown = answer.pop("grown_bytes")
        check(vector, Outcome(**answer), opaque=opaque)
        assert grown <= allowed


@pytest.mark.parametrize("vector", LIGHT, ids=by_name)
def test_scan_says_what_safe_load_does(vector, tmp_path):
    """The same error from `scan_files`, without running or opening anything else.

    A payload that stands in the file is named, also where `safe_load` never reads it.
    """
    path = tmp_path / vector.file_name
    content = vector.assemble()
    path.write_bytes(content)
    CANARY.reset()

    (report,) = scan_files([path])

    wanted = vector.header.get("scan", vector.header["expect"])
    assert report.error == (None if wanted == "opens" else wanted)
    assert not CANARY.trips
    if PAYLOAD in content and "unseen" not in vector.header:
        named = [finding.name for finding in report.findings]
        assert "safemodel.testing.trip" in named


def test_every_attack_has_a_vector():
    """Each id of the attack list is named by a vector, or listed with a reason."""
    rows = ATTACKS.read_text("utf-8").split("\n")
    wanted = {row.split()[0]: row for row in rows if row and not row.startswith("#")}
    covered = {attack for vector in VECTORS for attack in vector.attacks}
    elsewhere = {key for key, row in wanted.items() if " elsewhere: " in row}

    assert len(wanted) == 137
    assert covered <= wanted.keys()
    assert wanted.keys() - covered == elsewhere


def test_no_error_invites_an_unsafe_retry():
    """No error of ours is what callers catch to load again without protection (I2)."""
    for kind in vars(safemodel.errors).values():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert not issubclass(kind, pickle.UnpicklingError | ValueError | OSError)


def test_headers_state_outcomes_that_exist():
    """`expect` and `opaque` name "opens" or a class of the error tree."""
    for vector in VECTORS:
        for opaque in (False, True):
            wanted = expected(vector, opaque=opaque)
            if wanted != "opens":
                kind = getattr(safemodel.errors, wanted)
                assert issubclass(kind, safemodel.errors.SafeModelError), vector.name


@pytest.mark.parametrize("vector", VECTORS, ids=by_name)
def test_a_header_says_what_is_wrong(vector):
    """Its class alone could be another fault's; what opens says what comes out."""
    wanted = vector.header["expect"]
    if wanted == "opens":
        assert "result" in vector.header
    else:
        assert STATED.get(wanted, "reason") in vector.header
    if expected(vector, opaque=True) == "LimitExceededError":
        assert "limit" in vector.header


def test_a_second_open_of_the_input_is_seen(tmp_path):
    """The audit hook lets one open of the path through, and no other (T26, I8)."""
    path = tmp_path / "x"
    path.write_bytes(b"x")

    WATCH.run(path.read_bytes, allowed=str(path))
    assert not WATCH.seen
    WATCH.run(lambda: (path.read_bytes(), path.read_bytes()), allowed=str(path))
    assert len(WATCH.seen) == 1


def test_a_payload_trips_the_canary_where_it_runs():
    """The canary is alive: the unrestricted unpickler trips it on our own vector."""
    CANARY.reset()
    content = _vector("i02_error_is_no_unpickling_error").assemble()

    result = pickle.loads(content)  # our own bytes, and the canary is all they call

    assert result == "tripped"
    assert CANARY.trips == [("a pickle ran",)]
    CANARY.reset()


def test_an_unknown_header_key_is_an_error(tmp_path):
    """A misspelt key must not be ignored."""
    path = tmp_path / "x.vec"
    path.write_text("attack: V1\nexpect: opens\nwhy: x\nsource: x\nlimits: 3\n\nNONE\n")
    with pytest.raises(VectorError, match="limits"):
        read_vector(path)
