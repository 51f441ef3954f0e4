"""The mutation loop: no file, however broken, ends in anything but an error of ours.

    python tests/fuzz/run.py --count 1000000 --seed 1 [--jobs 2] [--out FOLDER]

Mutants are loaded in child processes, in both modes, from memory, and what comes back
is printed and computed with. A foreign
exception, a crash, a hang, a tripped canary, a file that only the stricter mode opens
or that `scan` alone refuses is a failure: the mutant is saved and named. Exits 1 if
there was one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import mmap
import multiprocessing
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from safemodel import Opaque, safe_load
from safemodel.errors import SafeModelError
from safemodel.policy import STRICT
from safemodel.scanning import inspect_file
from safemodel.testing import CANARY
from tests.fuzz.corpus import build_corpus, index_of_shards, shards
from tests.fuzz.mutate import mutant

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.queues import Queue

# Processor time, so that a busy machine is no hang.
HANG_S = 10
BATCH = 2_000
MEMORY_BYTES = 4 << 30
MOST_USED = 200
LARGEST_DENSE = 1 << 20


@dataclass
class Failure:
    """One mutant that did not end as it must."""

    seed: int
    index: int
    what: str


def try_one(content: bytes) -> str:
    """Return what is wrong with how a file loads; "" if nothing is."""
    opened = []
    for weights_only in (True, False):
        CANARY.trips.clear()
        try:
            result = safe_load(content, weights_only=weights_only)
        except SafeModelError:
            opened.append(False)
        # Anything else that escapes is what this loop looks for.
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            where = traceback.format_exception(error)[-4:]
            return f"weights_only={weights_only}: {''.join(where)}"
        else:
            opened.append(True)
            with warnings.catch_warnings(action="ignore"):
                use(result)
        if CANARY.trips:
            return f"weights_only={weights_only}: the canary was tripped"
    if opened == [True, False]:
        return "opens when strict, but not when opaque"
    # Scanning takes several times as long as loading: one file in five.
    chance = zlib.crc32(content)
    if chance % 16 == 1 or content.startswith(b"{"):
        return _try_shards(content)
    return "" if chance % 5 else _try_scan(content, opened=opened[0])


def _try_shards(content: bytes) -> str:
    """Return what is wrong with how a file loads as an index, or as a shard of one."""
    index, files = index_of_shards(), shards()
    if content.startswith(b"{"):
        index = content
    else:
        files["model-2.safetensors"] = content
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in {**files, "index.json": index}.items():
            (folder / file).write_bytes(data)
        try:
            safe_load(folder / "index.json", weights_only=False)
        except SafeModelError:
            pass
        # As above.
        except Exception as error:  # noqa: BLE001
            return f"sharded: {''.join(traceback.format_exception(error)[-4:])}"
    return "sharded: the canary was tripped" if CANARY.trips else ""


def use(result: object) -> None:
    """Print what a file holds and compute with it: whatever ends the process is found.

    torch raises for much that it cannot do with a tensor; that is no failure.
    """
    waiting, left = [result], MOST_USED
    while waiting and left:
        value, left = waiting.pop(), left - 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
        elif isinstance(value, Opaque):
            waiting += [value.args, value.state]
        elif isinstance(value, torch.Tensor):
            for compute in _USES:
                with contextlib.suppress(RuntimeError, TypeError, ValueError):
                    compute(value)
        if not isinstance(value, (torch.Tensor, dict, list, tuple)):
            with contextlib.suppress(RuntimeError, TypeError, ValueError):
                repr(value)


def _to_dense(tensor: torch.Tensor) -> torch.Tensor | None:
    small = tensor.is_nested or tensor.numel() < LARGEST_DENSE
    return tensor.to_dense() if small else None


_USES: tuple[Callable[[torch.Tensor], object], ...] = (
    repr, torch.clone, lambda tensor: tensor + tensor, _to_dense,
    lambda tensor: torch.save(tensor, io.BytesIO()),
)  # fmt: skip


def _try_scan(content: bytes, *, opened: bool) -> str:
    """Return what is wrong with how a file is scanned; "" if nothing is."""
    try:
        report = inspect_file(content, policy=STRICT)
    # Scanning answers for every file; what it raises is a bug.
    except Exception as error:  # noqa: BLE001
        return f"scan: {''.join(traceback.format_exception(error)[-4:])}"
    if opened and report.error is not None:
        return f"safe_load opens what scan refuses: {report.error}"
    return "scan: the canary was tripped" if CANARY.trips else ""


@dataclass
class Target:
    """What a loop mutates, and what it tries with each mutant.

    Attributes:
        build: Returns the files to mutate.
        content: The bytes of a mutant, from those files and two numbers.
        attempt: What is wrong with how a mutant ends; "" if nothing is.
        memory_bytes: How much more memory a process may take.
    """

    build: Callable[[], Sequence[Any]]
    content: Callable[[Sequence[Any], int, int], bytes]
    attempt: Callable[[Sequence[Any], int, int], str]
    memory_bytes: int = MEMORY_BYTES


FILES = Target(
    build_corpus, mutant, lambda seeds, seed, index: try_one(mutant(seeds, seed, index))
)


def run_batch(
    target: Target, seeds: Sequence[Any], seed: int, indices: range,
    found: Queue[Failure], progress: mmap.mmap,
) -> None:  # fmt: skip
    """Try a range of mutants in this process, noting the current one."""
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + target.memory_bytes,) * 2)
    for index in indices:
        progress[:8] = struct.pack("<q", index)
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        what = target.attempt(seeds, seed, index)
        if what:
            found.put(Failure(seed, index, what))
    signal.setitimer(signal.ITIMER_PROF, 0)


def save(target: Target, failure: Failure, seeds: Sequence[Any], folder: Path) -> None:
    """Write a mutant that failed, and say why."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{failure.seed}-{failure.index}.bin"
    path.write_bytes(target.content(seeds, failure.seed, failure.index))
    print(f"{path}: {failure.what}", flush=True)


def fuzz(
    count: int,
    seed: int,
    jobs: int = 1,
    *,
    out: Path | None = None,
    target: Target = FILES,
    batch_size: int = BATCH,
) -> list[Failure]:
    """Try `count` mutants; return the failures, saved in `out` where it is given."""
    seeds = target.build()
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    failures: list[Failure] = []
    waiting = [
        range(at, min(at + batch_size, count)) for at in range(0, count, batch_size)
    ]
    waiting.reverse()
    running: list[tuple[multiprocessing.process.BaseProcess, range, mmap.mmap]] = []
    started, done, saved = time.monotonic(), 0, 0
    while waiting or running:
        while waiting and len(running) < jobs:
            batch, progress = waiting.pop(), mmap.mmap(-1, 8)
            process = context.Process(
                target=run_batch, args=(target, seeds, seed, batch, found, progress)
            )
            process.start()
            running.append((process, batch, progress))
        process, batch, progress = running.pop(0)
        process.join(0.2)
        # Or a process with many of them would wait for us, as we for it.
        while not found.empty():
            failures.append(found.get())
        if process.exitcode is None:
            running.append((process, batch, progress))
            continue
        if process.exitcode:
            (index,) = struct.unpack("<q", progress[:8])
            failures.append(Failure(seed, index, f"exit code {process.exitcode}"))
            rest = range(index + 1, batch.stop)
            batch = range(batch.start, index + 1)
            if rest:
                waiting.append(rest)
        done += len(batch)
        if out is not None:
            for failure in failures[saved:]:
                save(target, failure, seeds, out)
            saved = len(failures)
            rate = done / (time.monotonic() - started)
            print(f"{done:,} mutants, {saved} failures, {rate:,.0f}/s", flush=True)
    return failures


def main(target: Target = FILES, description: str | None = __doc__) -> int:
    """Run the loop; save what fails."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    given = parser.parse_args()
    failures = fuzz(given.count, given.seed, given.jobs, out=given.out, target=target)
    print(f"{given.count:,} mutants: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
