"""Train the networks that the detector is trained and measured on.

    python training/networks.py                 # all of them, to .cache/networks
    python training/networks.py --quick         # a few, in a minute or two
    python training/networks.py --out DIR -j 4
    python training/networks.py --held-out      # as many of other seeds, for the test

Each is a `.safetensors` file; some are a `.pt` with the optimiser's state, too. The
`manifest.csv` beside them has a row for each file. Files of one training run share the
column `group` and are never independent of each other. Seeds are fixed. What is there
already is not made again, so the script can be stopped and started at any time.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from fit import COLUMNS, fit
from recipes import again_runs, default_runs, held_out_runs, quick_runs
from tasks import MNIST, needs_digits

if TYPE_CHECKING:
    from recipes import Run

FOLDER = Path(__file__).resolve().parents[1] / ".cache" / "networks"
HELD_OUT_FOLDER = FOLDER.with_name("networks-held-out")


def done(run: Run, folder: Path) -> bool:
    """Return whether a run was finished by an earlier call, as it is asked for now."""
    note = folder / f"{run.name}.json"
    if not note.exists():
        return False
    return bool(json.loads(note.read_text())["run"] == repr(run))


def one(run: Run, folder: Path) -> str:
    """Train one run, and note that it is done."""
    torch.set_num_threads(1)
    rows = fit(run, folder)
    note = folder / f"{run.name}.json"
    part = note.with_suffix(".json.part")
    told = {"run": repr(run), "rows": rows}
    part.write_text(json.dumps(told, indent=1) + "\n")
    part.replace(note)
    return run.name


def write_manifest(runs: list[Run], folder: Path) -> list[dict[str, Any]]:
    """Write the rows of all runs that are done, in the order of the recipes."""
    rows = [
        row
        for run in runs
        if done(run, folder)
        for row in json.loads((folder / f"{run.name}.json").read_text())["rows"]
    ]
    part = folder / "manifest.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        out.writeheader()
        out.writerows(rows)
    part.replace(folder / "manifest.csv")
    return rows


def train_all(runs: list[Run], folder: Path, jobs: int) -> list[dict[str, Any]]:
    """Train what is not done yet, each run in one thread, and return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    todo = [run for run in runs if not done(run, folder)]
    began = time.perf_counter()
    print(f"{len(runs)} runs, {len(todo)} to do, in {folder}", flush=True)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(one, run, folder) for run in todo]
        for i, future in enumerate(as_completed(waiting), start=1):
            name, spent = future.result(), time.perf_counter() - began
            print(f"{spent:6.0f} s  {i}/{len(todo)}  {name}", flush=True)
            write_manifest(runs, folder)
    return write_manifest(runs, folder)


def main() -> None:
    """Train what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--held-out", action="store_true", help="runs of seeds kept for the test"
    )
    parser.add_argument("--quick", action="store_true", help="a few short runs")
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N")
    arguments = parser.parse_args()
    runs = quick_runs() if arguments.quick else [*default_runs(), *again_runs()]
    folder = arguments.out or FOLDER
    if arguments.held_out:
        runs, folder = held_out_runs(), arguments.out or HELD_OUT_FOLDER
    if not MNIST.exists():
        kept = [run for run in runs if not needs_digits(run.task)]
        print(f"{len(runs) - len(kept)} runs left out: {MNIST.name} is not there")
        runs = kept
    rows = train_all(runs, folder, arguments.jobs)
    print(f"{len(rows)} files of {len({row['group'] for row in rows})} runs")


if __name__ == "__main__":
    main()
