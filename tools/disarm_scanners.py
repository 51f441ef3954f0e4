"""What other scanners say about benign and hostile files.

They live in an environment of their own, ``.cache/scanners``, which `make results`
fills from ``tools/scanners.txt``. Hostile files are shown to them twice: as they are,
where a payload calls the canary, which is on nobody's list of names; and with
``os.system`` in the canary's place, which is on every such list. Files of the second
kind are scanned only, never opened.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lines import Lines
from tools import disarm_hostile as hostile
from tools import disarm_twins as twins

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".cache" / "scanners" / "bin" / "python"
PINS = ROOT / "tools" / "scanners.txt"
TOOLS = ("picklescan", "fickling", "fickling, ML list", "modelscan")
JOBS = os.cpu_count() or 1
VERDICTS = ("flagged", "suspicious", "clean", "not scanned", "error")

Answers = dict[str, str]
"""Tool → verdict."""


@dataclass
class Said:
    """What the tools say of one hostile file.

    Attributes:
        canary: As it is.
        dangerous: With ``os.system`` in the place of the canary.
    """

    canary: Answers
    dangerous: Answers


def versions() -> dict[str, str]:
    """Return the version of each scanner, as pinned."""
    pins = re.findall(r"^(\w+)==(\S+)$", PINS.read_text("utf-8"), re.MULTILINE)
    return {name: pin for name, pin in pins if name in TOOLS}


class Scanners(Lines):
    """The process that asks; see `scanner_child`."""

    command = (PYTHON, Path(__file__).with_name("scanner_child.py"))

    def verdicts(self, path: Path) -> Answers:
        """Return what each tool says of a file."""
        answers: Answers = self.ask(str(path))
        return {tool: verdict(answer) for tool, answer in answers.items()}


def verdict(answer: str) -> str:
    """Return one of `VERDICTS`: a tool that fails on a file gave no answer."""
    return "error" if answer.startswith("fails: ") else answer


def ask_all(paths: Sequence[Path]) -> list[Answers]:
    """Return what the tools say of files, asked by a few processes."""
    found: list[Answers] = [{}] * len(paths)

    def some(start: int) -> None:
        with Scanners() as scanners:
            for at in range(start, len(paths), JOBS):
                found[at] = scanners.verdicts(paths[at])

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(some, range(JOBS)))
    return found


def of_hostile(folder: Path) -> dict[str, Said]:
    """Return what the tools say of every hostile file."""
    plain, named = folder / "canary", folder / "named"
    files: dict[str, tuple[Path, Path]] = {}
    for vector in hostile.vectors():
        other = hostile.dangerous(vector)
        files[vector.name] = (
            hostile.write_vector(vector, plain),
            hostile.write_vector(other, named),
        )
    for name in twins.names():
        files[name] = (
            hostile.write_twin(name, plain),
            hostile.write_twin(name, named, named=True),
        )
    changed = {
        name: other
        for name, (path, other) in files.items()
        if path.read_bytes() != other.read_bytes()
    }
    answers = ask_all([*(path for path, _ in files.values()), *changed.values()])
    first = dict(zip(files, answers, strict=False))
    second = dict(zip(changed, answers[len(files) :], strict=True))
    return {name: Said(said, second.get(name, said)) for name, said in first.items()}
