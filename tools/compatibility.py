"""Write docs/compatibility.md: real model files, torch's answer and ours.

Run it from anywhere: ``python tools/compatibility.py``. The files lie beside the
repository, in ``../shared/zoo``; without them there is nothing to do. torch is asked
with ``weights_only=True`` only; nothing here ever runs what a file names.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import sys
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import torch

import safemodel
from safemodel._containers.source import open_source
from safemodel._formats.formats import read_file
from safemodel.limits import DEFAULT_LIMITS
from tests.differential.reach import contents, reachable
from tests.differential.same import DifferenceError, assert_same

ZOO = ROOT.parent / "shared" / "zoo"
PAGE = ROOT / "docs" / "compatibility.md"
NO_MODEL = ("hdf5", "onnx")
_BUNDLE = "zip-of-pth(sb3)"
_TORCHSCRIPT = "torchscript"
_GLOBAL = re.compile(r"(?:GLOBAL|class|global) ([A-Za-z_][\w.]*\.\w+)")
_LOADS = "loads"
_CUT = 80


_HEAD = """# Compatibility

Written by `make zoo` (`tools/compatibility.py`); do not edit.

{files} model files from public repositories, written by other people with torch 0.1
to 2.x, read with torch {torch}, numpy {numpy} and safemodel {ours}.

* **torch**: `torch.load(..., weights_only=True)`: whether it loads the file, else the
  first global it names or the class of its error. For Stable-Baselines3 archives it is
  asked about each `.pth` inside; TorchScript it does not read that way at all.
* **safe_load**: the default, which refuses globals outside the allowlist: the first
  one, and how many more.
* **opaque**: `weights_only=False`, which runs nothing either.
* **same**: where torch loads the file, whether the result has the same types, order,
  bits, strides and sharing of storages.
* **tensors**: in the result of `weights_only=False`.
* **unreachable**: storages of the file that nothing in its pickle refers to, as
  `safemodel inspect` lists them. Every other one is in the result.

How many load, by container:

{summary}

## Every file

| file | container | torch | safe_load | opaque | same | tensors | unreachable |
|---|---|---|---|---|---|---:|---:|
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file: what torch says, what we say."""

    file: str
    container: str
    torch: str
    strict: str
    opaque: str
    same: str
    tensors: int
    unreachable: tuple[str, ...]


def manifest() -> list[dict[str, str]]:
    """Return the files of the zoo, by name."""
    with (ZOO / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        return sorted(csv.DictReader(lines), key=lambda row: row["file"])


def torch_parts(path: Path, container: str) -> dict[str, object]:
    """Return what torch is asked about: the file, or the models inside it."""
    if container != _BUNDLE:
        return {"": path}
    with zipfile.ZipFile(path) as archive:
        return {
            name: io.BytesIO(archive.read(name))
            for name in archive.namelist()
            if name.endswith(".pth")
        }


def ask_torch(source: object) -> tuple[object, str]:
    """Return what torch loads and "loads", or None and why it does not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(source, weights_only=True, map_location="cpu"), _LOADS
        except Exception as error:  # noqa: BLE001 - whatever it is, it is torch's answer
            return None, _torch_refusal(error)


def _torch_refusal(error: Exception) -> str:
    """Return the first global an error names, or its class."""
    found = _GLOBAL.search(str(error))
    return f"no: `{found[1][:_CUT] if found else type(error).__name__}`"


def ask_us(path: Path, *, weights_only: bool | None) -> tuple[object, str]:
    """Return what `safe_load` returns and "loads", or None and why it does not."""
    try:
        return safemodel.safe_load(path, "cpu", weights_only=weights_only), _LOADS
    except safemodel.ForbiddenGlobalError as error:
        count = len({name[:2] for name in error.globals})
        more = f" and {count - 1} more" if count > 1 else ""
        name = f"{error.module}.{error.name}"[:_CUT]
        return None, f"no: `{name}`{more}"
    except safemodel.UnsupportedFormatError as error:
        return None, f"no: {error.what}"
    except safemodel.SafeModelError as error:
        return None, f"no: `{type(error).__name__}`"


def _compare(path: Path, container: str, ours: object) -> tuple[str, str]:
    """Return torch's answer, and whether ours is the same thing."""
    if container == _TORCHSCRIPT:
        return "n/a", "n/a"
    answers: Counter[str] = Counter()
    same = "n/a"
    for name, source in torch_parts(path, container).items():
        theirs, answer = ask_torch(source)
        answers[answer] += 1
        if answer != _LOADS or same == "no":
            continue
        mine = ours[name] if container == _BUNDLE else ours
        try:
            assert_same(theirs, mine)
            same = "yes"
        except DifferenceError as difference:
            print(f"{path.name} {name}: {difference}", file=sys.stderr)
            same = "no"
    if container == _BUNDLE and set(answers) == {_LOADS}:
        return f"loads (each of {answers.total()} inside)", same
    return ", ".join(sorted(answers)), same


def unreachable(path: Path, result: object) -> tuple[tuple[str, ...], list[str]]:
    """Return storages a result lacks: those that `inspect` lists, and others."""
    held = contents(result)
    listed = safemodel.inspect_file(path).unreachable
    with open_source(path) as source:
        graph, reading = read_file(
            source, policy=safemodel.SALVAGE, limits=DEFAULT_LIMITS
        )
        lost = [
            name
            for name, spec in graph.storages.items()
            if spec.record is not None
            and spec.record.read(limits=DEFAULT_LIMITS) not in held
            and name not in listed
        ]
        reading.close()
    return listed, lost


def count_tensors(result: object) -> int:
    """Return how many tensors a result holds."""
    return sum(isinstance(value, torch.Tensor) for value in reachable(result))


@functools.cache
def examine(file: str, container: str) -> Row:
    """Return the row of one file."""
    path = ZOO / file
    ours, strict = ask_us(path, weights_only=None)
    salvaged, opaque = ask_us(path, weights_only=False)
    answer, same = _compare(path, container, ours)
    listed: tuple[str, ...] = ()
    lost: list[str] = []
    if opaque == _LOADS:
        listed, lost = unreachable(path, salvaged)
    if lost:
        opaque = f"lacks {len(lost)} storages"
    return Row(
        file=file.removeprefix("files/"),
        container=container,
        torch=answer,
        strict=strict,
        opaque=opaque,
        same=same,
        tensors=count_tensors(salvaged) if opaque == _LOADS else 0,
        unreachable=listed,
    )


def rows() -> list[Row]:
    """Return the rows of all files."""
    return [examine(row["file"], row["container"]) for row in manifest()]


def _summary(table: list[Row]) -> list[str]:
    """Return the lines of the table of counts by container."""
    lines = [
        "| container | files | torch | safe_load | opaque | same |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    groups: dict[str, list[Row]] = {}
    for row in table:
        groups.setdefault(row.container, []).append(row)
    for name, group in [*sorted(groups.items()), ("**all**", table)]:
        loaded = [row for row in group if row.torch.startswith(_LOADS)]
        counts = (
            len(group),
            len(loaded),
            sum(row.strict == _LOADS for row in group),
            sum(row.opaque == _LOADS for row in group),
            sum(row.same == "yes" for row in loaded),
        )
        lines.append(
            f"| {name} | " + " | ".join(map(str, counts)) + f" of {len(loaded)} |"
        )
    return lines


def page(table: list[Row]) -> str:
    """Return the page."""
    head = _HEAD.format(
        files=len(table),
        torch=version(torch.__version__),
        numpy=version(np.__version__),
        ours=safemodel.__version__,
        summary="\n".join(_summary(table)),
    )
    cells = [
        (
            f"`{row.file}`",
            row.container,
            row.torch,
            row.strict,
            row.opaque,
            row.same,
            row.tensors,
            len(row.unreachable),
        )
        for row in table
    ]
    return head + "".join(f"| {' | '.join(map(str, line))} |\n" for line in cells)


def version(text: str) -> str:
    """Return a version without its local part, which names a build."""
    return str(text).partition("+")[0]


def main() -> int:
    """Write the page."""
    if not (ZOO / "manifest.csv").is_file():
        print("the zoo of real model files is not beside this repository: nothing done")
        return 0
    PAGE.write_text(page(rows()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
