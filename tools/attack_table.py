"""Measure what others do with the attack vectors; write it into docs/attacks.md.

Run it from anywhere: ``python tools/attack_table.py`` (a few minutes). In the first
table the columns id, technique and elsewhere are written by hand; the others, and the
whole second table, are written here. ``--new`` measures only vectors that the page
does not have yet; with names of vectors it only prints what it measures for them.

torch is asked with ``weights_only=True`` only. Each question is put in a process of
its own, with a limit on time and on memory.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import time
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# torch would load without protection if this were set.
os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)

import picklescan.scanner
import torch

from tests.vectors.assemble import Vector, read_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PAGE = ROOT / "docs" / "attacks.md"
FOLDER = ROOT / "tests" / "vectors"
ATTACK_ROW = re.compile(r"\| ([CVTSNAI][0-9]+) \| (.*)")
VECTOR_ROW = re.compile(r"\| \[(\w+)\]\((?:[^|]*\|){4} (.*) \| (.*) \|$", re.MULTILINE)
START, END = "<!-- vectors: written by the tool -->\n", "<!-- end of vectors -->\n"
MAX_SECONDS = 30
MAX_MORE_BYTES = 4 << 30
_SLOW_S = 2
_MUCH = 100 << 20
_GIB = 1 << 30
_KEPT_CELLS = 2
_HEAD = """| vector | attack | `safe_load` | opaque | torch | picklescan |
|---|---|---|---|---|---|
"""


def vectors() -> list[Vector]:
    """Return every vector, in the order of the names."""
    return [read_vector(path) for path in sorted(FOLDER.glob("*.vec"))]


def stated(vector: Vector, *, opaque: bool) -> str:
    """Return what the header of a vector says about a mode."""
    strict = vector.header["expect"]
    if not opaque:
        return strict
    inert = "opens" if strict == "ForbiddenGlobalError" else strict
    return vector.header.get("opaque", inert)


def _status(field: str) -> int:
    """Return a memory figure of this process in bytes."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def in_archive(path: Path, vector: Vector) -> Path:
    """Return the file to ask torch about: a bare pickle goes into an archive.

    torch reads no bare pickle: it would say so after running it, whatever it holds.
    """
    content = path.read_bytes()
    if vector.header.get("container", "pickle") != "pickle" or content[:2] == b"PK":
        return path
    whole = path.with_name("archive.pt")
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    return whole


def ask_torch(path: Path, vector: Vector) -> str:
    """Return how ``torch.load(weights_only=True)`` ends, and what shows an attack."""
    path = in_archive(path, vector)
    before, start = _status("VmHWM:"), time.process_time()
    mapped = vector.header.get("load") == "mmap"
    try:
        loaded = torch.load(path, weights_only=True, mmap=mapped)
        if "then" in vector.header:
            getattr(loaded, vector.header["then"])()
    # Whatever it raises is the answer.
    except Exception as error:  # noqa: BLE001
        answer = f"`{type(error).__name__}`"
    else:
        answer = "opens"
    taken = time.process_time() - start
    grown = _status("VmHWM:") - before
    if grown > _MUCH + 4 * path.stat().st_size:
        answer += f", {grown / _GIB:.1f} GiB"
    return f"{answer}, {taken:.0f} s" if taken >= _SLOW_S else answer


def ask_picklescan(path: Path, vector: Vector) -> str:
    """Return picklescan's verdict, in its own words."""
    del vector
    try:
        result = picklescan.scanner.scan_file_path(str(path))
    # As above.
    except Exception as error:  # noqa: BLE001
        return f"fails: `{type(error).__name__}`"
    found = "clean"
    if result.issues_count:
        found = "dangerous"
    elif result.suspicious_count:
        found = "suspicious"
    if not result.scan_err:
        return found
    return "error" if found == "clean" else f"{found}, error"


def apart(ask: Callable[[Path, Vector], str], path: Path, vector: Vector) -> str:
    """Ask in a process of its own; also say how that process died."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        # What the tools log and print is not the answer.
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        warnings.simplefilter("ignore")
        space = _status("VmSize:") + MAX_MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Processor time, so that a busy machine changes no answer.
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        os.write(writer, ask(path, vector).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGPROF:
        return f"no end in {MAX_SECONDS} s"
    if code:
        return "**crash**" if code == -signal.SIGSEGV else f"dies ({code})"
    return answer


def measure(vector: Vector, folder: Path) -> tuple[str, str]:
    """Return what torch and picklescan answer."""
    path = folder / vector.file_name
    path.write_bytes(vector.assemble())
    found = apart(ask_torch, path, vector), apart(ask_picklescan, path, vector)
    for left in folder.iterdir():
        left.unlink()
    return found


def outcome(name: str) -> str:
    """Return an outcome as the page shows it."""
    return name if name == "opens" else f"`{name}`"


def _distinct(answers: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(answers))


def attack_row(
    key: str, kept: list[str], mine: list[Vector], found: dict[str, tuple[str, str]]
) -> str:
    """Return the row of an attack; one without vectors stays as it was written."""
    cells = [
        key,
        *kept,
        _distinct(found[vector.name][0] for vector in mine),
        _distinct(found[vector.name][1] for vector in mine),
        _distinct(outcome(stated(vector, opaque=False)) for vector in mine),
        _distinct(outcome(stated(vector, opaque=True)) for vector in mine),
        " ".join(f"`{vector.name}`" for vector in mine),
    ]
    return f"| {' | '.join(cells)} |\n"


def write_page(found: dict[str, tuple[str, str]]) -> None:
    """Fill in the page."""
    known = vectors()
    lines = []
    head, _, rest = PAGE.read_text("utf-8").partition(START)
    for line in head.splitlines(keepends=True):
        match = ATTACK_ROW.match(line)
        mine = [vector for vector in known if match and match[1] in vector.attacks]
        if match and mine:
            kept = match[2].split(" | ")[:_KEPT_CELLS]
            lines.append(attack_row(match[1], kept, mine, found))
        else:
            lines.append(line)
    rows = [
        f"| [{vector.name}](../tests/vectors/{vector.name}.vec)"
        f" | {' '.join(vector.attacks)}"
        f" | {outcome(stated(vector, opaque=False))}"
        f" | {outcome(stated(vector, opaque=True))}"
        f" | {found[vector.name][0]} | {found[vector.name][1]} |\n"
        for vector in known
    ]
    rest = rest.partition(END)[2]
    PAGE.write_text(
        "".join([*lines, START, "\n", _HEAD, *rows, "\n", END, rest]), "utf-8"
    )


def on_page() -> dict[str, tuple[str, str]]:
    """Return what the page says that torch and picklescan answer."""
    rows = VECTOR_ROW.finditer(PAGE.read_text("utf-8"))
    return {row[1]: (row[2], row[3]) for row in rows}


def main(names: list[str]) -> int:
    """Measure all vectors and write the page; or some, and print."""
    found = on_page() if names == ["--new"] else {}
    names = [] if names == ["--new"] else names
    with tempfile.TemporaryDirectory() as folder:
        for vector in vectors():
            if vector.name in found or (names and vector.name not in names):
                continue
            found[vector.name] = measure(vector, Path(folder))
            print(vector.name, *found[vector.name], sep="\t", flush=True)
    if not names:
        write_page(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
