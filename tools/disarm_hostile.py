"""Every hostile file: what stock readers do with it, and with what `disarm` made of it.

A file is disarmed if each of its attempts (three formats, two policies) ends in one of
two ways: an error of ours with nothing left in the folder, or an output that is proven.
Proven is an output that stock readers open in a process under an audit hook without any
event, any call of the canary, and any name outside of the fixed list (`tests.stock`).
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lines import Lines
from tests.stock import Answer, Stock, foreign
from tests.vectors.assemble import Vector, read_vector
from tools import disarm_twins as twins
from tools.disarm_child import Attempt, target

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
VECTORS = ROOT / "tests" / "vectors"
KINDS = ("calls", "touches", "names", "nothing")
# The canary in the text of a vector → what name lists know, for scanners only.
_RENAMED = (
    (r"safemodel\.testing trip\b", "os system"),
    (r"safemodel\.testing\\ntrip\\n", r"os\\nsystem\\n"),
    (r"safemodel\.testing:trip\b", "os:system"),
    (r"safemodel\.testing'\)\.testing\.trip\(", "os').system("),
    (r"safemodel\.testing; safemodel\.testing\.trip\(\)", "os; os.system('true')"),
    (r"\"(')?safemodel\.testing(')?\"", r'"\1os\2"'),
    (r"\"trip\"|(?<=UNICODE )trip\b", '"system"'),
    (
        r"(?m)(^|[;{] *)trip(?= *([;}]|$))",
        r'\1GLOBAL os system ; str "a pickle ran" ; TUPLE1 ; REDUCE',
    ),
)


@dataclass
class Hostile:
    """One hostile file.

    Attributes:
        name: Of the vector or the twin.
        kind: What stock readers do with it: one of `KINDS`.
        attempts: What became of it.
    """

    name: str
    kind: str
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """What is wrong about it; empty: it is disarmed."""
        return [f"{a.policy} {a.suffix}: {a.wrong}" for a in self.attempts if a.wrong]


def vectors() -> list[Vector]:
    """Return every vector, in the order of the names."""
    return [read_vector(path) for path in sorted(VECTORS.glob("*.vec"))]


def dangerous(vector: Vector) -> Vector:
    """Return a vector that names ``os.system`` where it names the canary."""
    body = vector.body
    for pattern, instead in _RENAMED:
        body = re.sub(pattern, instead, body)
    for name in re.findall(r"^include (\w+)$", body, re.MULTILINE):
        inner = dangerous(read_vector(VECTORS / f"{name}.vec"))
        body = body.replace(f"include {name}\n", f"hex {inner.assemble().hex()}\n")
    return Vector(vector.path, vector.header, body)


def file_name(vector: Vector, content: bytes) -> str:
    """Return the name a vector gets: a bare pickle is a ``.pkl``."""
    bare = vector.header.get("container", "pickle") == "pickle"
    if bare and "name" not in vector.header and content[:2] != b"PK":
        return "model.pkl"
    return vector.file_name


def write_vector(vector: Vector, folder: Path) -> Path:
    """Write the file of a vector into a folder of its own; return its path."""
    content = vector.assemble()
    path = folder / vector.name / file_name(vector, content)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def write_twin(name: str, folder: Path, *, named: bool = False) -> Path:
    """Write a twin into a folder of its own; return its path."""
    suffix, content = twins.make(name, dangerous=named)
    path = folder / name / f"model{suffix}"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def kind_of(answer: Answer) -> str:
    """Return which of `KINDS` a file is, by what stock readers do with it."""
    if answer.trips:
        return "calls"
    if answer.event:
        return "touches"
    return "names" if answer.foreign else "nothing"


class Disarming(Lines):
    """The process that disarms; see `disarm_child`."""

    command = (sys.executable, Path(__file__).with_name("disarm_child.py"))

    def __call__(self, path: Path, folder: Path, env: str = "") -> list[Attempt]:
        """Disarm a file to every format under every policy, in a fork."""
        return [Attempt(**item) for item in self.ask([str(path), str(folder), env])]


def measure(
    name: str, path: Path, folder: Path, stock: Stock, made: list[Attempt]
) -> Hostile:
    """Return what stock readers make of a file and of what became of it.

    Args:
        name: Of the vector or the twin.
        path: The file.
        folder: Where its outputs are; gone afterwards.
        stock: The stock readers.
        made: What became of it.
    """
    found = Hostile(name, kind_of(stock.open(path)), made)
    outputs = set()
    for attempt in made:
        if not attempt.error and attempt.suffix:
            out = target(folder, attempt.policy, attempt.suffix)
            outputs.add(out)
            attempt.wrong = attempt.wrong or foreign(out, stock.open(out))
    stray = {item for item in folder.rglob("*") if item.is_file()} - outputs
    if stray:
        found.attempts.append(Attempt("", "", "", f"left behind: {stray.pop().name}"))
    shutil.rmtree(folder)
    return found


def every_file(folder: Path) -> Iterator[tuple[str, Path, str]]:
    """Write each hostile file in turn; yield its name, its path, its environment."""
    for vector in vectors():
        env = vector.header.get("environment", "")
        yield vector.name, write_vector(vector, folder), env
    for name in twins.names():
        yield name, write_twin(name, folder), ""


def measure_all(folder: Path) -> list[Hostile]:
    """Return what became of every hostile file."""
    found = []
    with Stock() as stock, Disarming() as disarm:
        for name, path, env in every_file(folder / "in"):
            before = path.read_bytes()
            out = folder / "out"
            out.mkdir()
            made = disarm(path, out, env)
            if path.read_bytes() != before:
                made.append(Attempt("", "", "", "the input changed"))
            found.append(measure(name, path, out, stock, made))
            path.unlink()
            for wrong in found[-1].wrong:
                print(f"{name}: {wrong}", file=sys.stderr, flush=True)
    return found
