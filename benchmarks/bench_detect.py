"""Measure `detect` on files that nothing was tuned on; write docs/detection-results.md.

    python benchmarks/bench_detect.py                # the test side: the page
    python benchmarks/bench_detect.py --side train   # to try it: prints the page

What is measured is kept in a folder outside of the repository, by the content of the
file, the case and the code, so a call that was stopped goes on where it was. Networks
of the test side come from `training/networks.py --held-out`, and the zoo lies beside
the checkout. Thresholds are those that are shipped: nothing here sets one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import detection_page
import numpy as np
import torch
from detect_cases import ADAPTIVE, CASES, CLEAN_FORMS, MAIN, hidden
from detect_material import (
    NETWORKS,
    PACKAGES,
    ROOT,
    ZOO,
    files,
    mapping_of,
    tensors_of,
)
from packages import members
from safetensors.torch import save_file
from source import DRAWN

from safemodel import Scrub, disarm, safe_load
from safemodel.detection import Detection, Detector, Verdict, detect
from safemodel.errors import SafeModelError
from safemodel.evaluation import stego

if TYPE_CHECKING:
    from detect_cases import Hidden
    from source import Source

ROWS = ROOT / "benchmarks" / "detection_rows.csv"
PAGE = ROOT / "docs" / "detection-results.md"
_CACHE = Path.home() / ".cache" / "safemodel" / "detection"
CACHE = Path(os.environ.get("SAFEMODEL_DETECTION_CACHE", _CACHE))
REPETITIONS = 30
FAMILY = 7
"""Runs of a family that few-shot adaptation needs: six to learn from, one to judge."""
COLUMNS = (
    "case", "file", "group", "family", "kind", "words", "attacked", "suspicious",
    "score", "named", "in_named", "wrongly", "covered", "error_rate", "seconds",
)  # fmt: skip
MEASURED = ("safemodel/_detector", "safemodel/_kernels", "safemodel/detection.py",
            "safemodel/evaluation", "benchmarks/bench_detect.py",
            "benchmarks/detect_cases.py", "benchmarks/detect_material.py")  # fmt: skip


class Task(NamedTuple):
    """What one process does at once.

    Attributes:
        case: "as it is", a key of `CASES`, or "adapt".
        of: The files.
        number: Of a repetition.
    """

    case: str
    of: tuple[Source, ...]
    number: int = 0


def tasks_of(every: list[Source]) -> list[Task]:
    """Return all that is measured."""
    made = [Task("as it is", (one,)) for one in every]
    drawn = [one for one in every if one.kind == DRAWN]
    made += [Task(f"clean-{form}", (one,)) for form in CLEAN_FORMS for one in drawn]
    carriers = [one for one in every if one.carrier]
    for case in (*MAIN, *ADAPTIVE):
        if case.role == "optimiser":
            some = [one for one in every if one.kind == "checkpoint"]
        elif isinstance(case.method, stego.SpreadSpectrum):
            some = [one for one in carriers if one.kind == "trained"]
        else:
            some = carriers
        made += [Task(case.key, (one,)) for one in some]
    return made + list(_repetitions(carriers))


def _repetitions(carriers: list[Source]) -> list[Task]:
    """Return choices of a family and an order of its runs, without any of a zoo."""
    families: dict[str, list[Source]] = {}
    for one in carriers:
        if one.kind == "trained":
            families.setdefault(one.family, []).append(one)
    large = sorted(name for name, runs in families.items() if len(runs) >= FAMILY)
    random = np.random.default_rng(0)
    tasks = []
    for number in range(REPETITIONS if large else 0):
        runs = families[large[number % len(large)]]
        order = random.permutation(len(runs))
        tasks.append(Task("adapt", tuple(runs[at] for at in order), number))
    return tasks


def measured(task: Task) -> list[dict[str, Any]]:
    """Return the rows of a task, from the cache if they are there."""
    parts = [code(), Detector.bundled().id, task.case, str(task.number)]
    parts += [digest(one.path) for one in task.of]
    key = sha256("\n".join(parts).encode())
    path = CACHE / f"{key.hexdigest()}.json"
    if path.exists():
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return rows
    torch.set_num_threads(1)
    began = time.process_time()
    rows = _adapted(task) if task.case == "adapt" else _one(task)
    for row in rows:
        row["seconds"] = round((time.process_time() - began) / len(rows), 2)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(rows))
    part.replace(path)
    return rows


@cache
def code() -> str:
    """Return a digest of all code that a figure depends on."""
    found = sha256()
    for name in MEASURED:
        for path in sorted((ROOT / name).rglob("*")) or [ROOT / name]:
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(path.read_bytes())
    return found.hexdigest()


@cache
def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        found = sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def row_of(task: Task, one: Source, found: Detection, **more: Any) -> dict[str, Any]:
    """Return what is kept of an answer."""
    return {
        "case": task.case, "file": one.name, "group": one.group, "family": one.family,
        "kind": one.kind, "words": sum(each.size for each in found.by_tensor),
        "suspicious": int(found.verdict is Verdict.SUSPICIOUS),
        "score": round(found.score, 4), **more,
    }  # fmt: skip


def _one(task: Task) -> list[dict[str, Any]]:
    """Look at a file as it is, or with something hidden in it."""
    (one,) = task.of
    if task.case == "as it is":
        try:
            found = detect(one.path)
        except SafeModelError:
            return []  # what `safe_load` refuses says nothing of weights
        return [row_of(task, one, found, attacked=int(bool(one.attack)))]
    made = hidden(tensors_of(one.path), CASES[task.case], one.name)
    if made is None:
        return []
    given = mapping_of(made.tensors)
    found = detect(given)
    more: dict[str, Any] = {"attacked": int(bool(made.payload))}
    if made.changed:
        flagged = {each.name for each in found.by_tensor if each.suspicious}
        sizes = {one.name: one.words.size for one in made.tensors
                 if one.name in made.changed}  # fmt: skip
        right = flagged & made.changed
        more["named"] = round(len(right) / len(sizes), 4)
        in_named = sum(sizes[name] for name in right)
        more["in_named"] = round(in_named / sum(sizes.values()), 4)
        more["wrongly"] = len(flagged - made.changed)
    if task.case == "encrypted-8":
        more |= _removed(made, given, found)
    return [row_of(task, one, found, **more)]


def _removed(
    made: Hidden, given: dict[str, torch.Tensor], found: Detection
) -> dict[str, Any]:
    """Return whether the blind spot says so, and what its remedy leaves."""
    assert isinstance(made.method, stego.Lsb)
    bits = found.blind_spot.bits.get("float32", 0)
    if bits < made.method.bits or not found.blind_spot.remedies:
        return {"covered": 0}
    state = {name: value.clone() for name, value in given.items()
             if name in made.changed}  # fmt: skip
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "a.safetensors", Path(folder) / "b.safetensors"
        save_file(state, before)
        disarm(before, after, scrub=Scrub(bits=found.blind_spot.remedies[-1].bits))
        scrubbed = safe_load(after)
    names = [one.name for one in made.tensors if one.name in made.changed]
    left = stego.recovery(
        {name: state[name] for name in names}, {name: scrubbed[name] for name in names},
        made.payload, made.method,
    )  # fmt: skip
    return {"covered": 1, "error_rate": round(left.bit_error_rate, 4)}


def _adapted(task: Task) -> list[dict[str, Any]]:
    """Adapt to three clean files and three that hold something, and ask of the rest.

    What is hidden in those to learn from is not what is hidden in those to judge.
    """
    learn, rest = task.of[:6], task.of[6:]
    case = CASES["program-2"]
    clean = [mapping_of(tensors_of(one.path)) for one in learn[:3]]
    attacked = [_with_another(one) for one in learn[3:]]
    detector = Detector.adapt(benign=clean, stego=attacked)
    rows = []
    for one in rest:
        tensors = tensors_of(one.path)
        made = hidden(tensors, case, one.name)
        for given, is_attacked in ((tensors, 0), (made.tensors if made else [], 1)):
            if given:
                found = detect(mapping_of(given), detector=detector)
                row = row_of(task, one, found, attacked=is_attacked)
                rows.append(row | {"group": f"repetition {task.number}"})
    return rows


def _with_another(one: Source) -> dict[str, torch.Tensor]:
    """Return a network with two bits a weight of libraries that training may use."""
    tensors = tensors_of(one.path)
    case = CASES["program-2"]
    made = hidden(tensors, case._replace(payload="library"), one.name)
    if made is None:
        raise ValueError(f"no room in {one.name}")
    return mapping_of(made.tensors)


def run(every: list[Source], tasks: list[Task], jobs: int) -> list[dict[str, Any]]:
    """Measure what is to be measured, in several processes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    found: dict[int, list[dict[str, Any]]] = {}
    print(f"{len(every)} files, {len(tasks)} tasks, in {jobs} processes", flush=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(measured, task): at for at, task in enumerate(tasks)}
        for done, future in enumerate(as_completed(waiting), 1):
            found[waiting[future]] = future.result()
            if done % 100 == 0 or done == len(tasks):
                spent = time.perf_counter() - began
                print(f"{spent:6.0f} s  {done} of {len(tasks)}", flush=True)
    return [row for at in range(len(tasks)) for row in found[at]]


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """Write what was measured."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    part.replace(path)


def missing_packages(side: str, every: list[Source]) -> int:
    """Return how many files of packages are left out, as nobody fetched them."""
    listed = sum(one.side == side for one in members())
    return listed - sum(one.kind == "package" for one in every)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--side", choices=("train", "test"), default="test")
    parser.add_argument("--networks", type=Path)
    parser.add_argument("--zoo", type=Path, default=ZOO)
    parser.add_argument("--packages", type=Path, default=PACKAGES)
    parser.add_argument("--rows", type=Path, help="where to write the rows instead")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="no others")
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N")
    given = parser.parse_args()
    networks = given.networks or NETWORKS[given.side]
    for needed in (given.zoo / "manifest.csv", networks / "manifest.csv"):
        if not needed.is_file():
            parser.error(f"{needed} is not there; see training/README.md")
    every = files(given.side, networks, given.zoo, given.packages)
    if absent := missing_packages(given.side, every):
        print(f"{absent} files of packages are not there: training/packages.py")
    tasks = [task for task in tasks_of(every)
             if not given.cases or task.case in given.cases]  # fmt: skip
    rows = run(every, tasks, given.jobs)
    official = given.side == "test" and not (given.rows or given.cases)
    with TemporaryDirectory() as folder:
        path = ROWS if official else given.rows or Path(folder) / "rows.csv"
        write_rows(rows, path)
        text = detection_page.page(path)
    if official:
        PAGE.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
