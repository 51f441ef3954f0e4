"""Ask stock readers, in a process of their own, what a file does to them.

`Stock` starts `stock_child.py`. `foreign` judges an output of `disarm`: it names what
the output should not do, as text, or nothing.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from safemodel._rewrite.readback import FUNCTIONS
from safemodel._rewrite.writers import _CONSTANTS
from tests.lines import Lines

NAMES = FUNCTIONS | _CONSTANTS
"""All that an output may have stock `find_class` look up."""
# What has to open a file of each suffix without an error.
READERS = {
    ".pt": {"torch", "member"},
    ".safetensors": {"safetensors", "metadata"},
    ".npz": {"numbers"},
}


@dataclass
class Answer:
    """What happened while stock readers opened a file.

    Attributes:
        trips: How often the canary was called.
        event: Audit events, but for those that opening a file is made of.
        name: What `find_class` was asked for: "module name".
        scratch: Events in the folder where torch unpacks tar files of its own.
        error: "reader class" of each attempt that failed.
        opened: Readers that returned.
        died: Exit code of the process; negative: a signal.
    """

    trips: int
    event: list[str]
    name: list[str]
    scratch: list[str]
    error: list[str]
    opened: list[str]
    died: int

    @property
    def runs(self) -> bool:
        """Whether something happened beyond opening a file."""
        return bool(self.trips or self.event)

    @property
    def foreign(self) -> list[str]:
        """Names that no file of ours has."""
        return [name for name in self.name if name not in NAMES]


class Stock(Lines):
    """The process that opens files."""

    command = (sys.executable, Path(__file__).with_name("stock_child.py"))

    def open(self, path: Path) -> Answer:
        """Return what happens when stock readers open a file, unrestricted."""
        return Answer(**self.ask(str(path)))


def foreign(path: Path, answer: Answer) -> str:
    """Return what an output of `disarm` does and should not; empty if nothing.

    Its own reader has to have opened it: what fails early runs nothing either.
    """
    if answer.trips:
        return "the canary was called"
    if answer.event or answer.scratch:
        return f"event: {(answer.event + answer.scratch)[0]}"
    if answer.foreign:
        return f"name: {answer.foreign[0]}"
    if answer.died:
        return f"the process ended with {answer.died}"
    # Models of a folder keep their names, whatever these end in.
    failed = READERS.get(path.suffix, READERS[".pt"]) - set(answer.opened)
    if failed:
        return f"{', '.join(sorted(failed))} did not open it: {answer.error}"
    return ""
