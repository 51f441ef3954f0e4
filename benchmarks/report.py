"""Measure at full size, print the rows, and write RESULTS.md or the parts named.

A figure that misses its target is printed as a miss; nothing here is tuned.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from bench_disarm import CONTENDERS as WRITERS
from bench_disarm import forget, same, settle, suffix_of
from bench_load import torch_loads
from bench_scrub import NUMBERS, check, numbers
from bench_scrub import contenders as scrubbers
from bench_start import commands
from contenders import CONTENDERS, differences
from generate import (
    FULL,
    TINY,
    cache,
    flat_state,
    shape_a,
    shape_b,
    shape_c,
    small_folder,
    zoo_files,
)
from measure import (
    HERE,
    MIB,
    Timings,
    cold_load_s,
    console_script,
    interleave,
    peak_bytes,
    run,
    warm_cache,
    writing_peak_bytes,
)
from picklescan.scanner import scan_directory_path
from report_detect import measure_detect
from report_protect import measure_pools, measure_protected_files
from tables import Report

from safemodel import scan_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

ROUNDS = 7
COLD_ROUNDS = 5
START_ROUNDS = 15
FOLDER = cache() / FULL.name


def load_timings(
    paths: dict[str, Path], expected: Any, *, flat: bool = False
) -> Timings:
    """Time loaders of one shape in turns, each result checked in the first round."""

    def check(name: str, result: Any) -> None:
        wanted, got = expected, result
        if flat and name == "safetensors":
            wanted = dict(sorted(flat_state(expected).items()))
            got = dict(sorted(result.items()))
        elif name == "safetensors":
            wanted, got = dict(sorted(wanted.items())), dict(sorted(got.items()))
        if found := differences(got, wanted):
            raise AssertionError(f"{name}: {found[:3]}")

    warm_cache(list(paths.values()))
    contenders: dict[str, Callable[[], Any]] = {
        name: (lambda name=name, path=path: CONTENDERS[name](path))
        for name, path in paths.items()
    }
    return interleave(contenders, ROUNDS, check)


def cold(report: Report, title: str, path: Path) -> None:
    """Time the first load of a fresh process, ours and torch's in turns."""
    timings = Timings({"safe_load": [], "torch": []})
    for _ in range(COLD_ROUNDS):
        for name, seconds in timings.rounds.items():
            seconds.append(cold_load_s(name, path))
    report.timings(f"{title}, first call in a fresh process", timings)
    print(f"  cold: {timings.ratio('torch', 'safe_load'):.2f} x torch", flush=True)


def measure_a(report: Report) -> None:
    """Large tensors: time, copying and mapped, and memory."""
    print("A: 200 tensors, 1 GB", flush=True)
    torch_file, flat_file = shape_a(FOLDER, FULL)
    expected = torch.load(torch_file, weights_only=True)
    copying = load_timings(
        {"safe_load": torch_file, "torch": torch_file, "safetensors": flat_file},
        expected,
    )
    mapped = load_timings(
        {
            "safe_load mmap": torch_file,
            "torch mmap": torch_file,
            "safetensors": flat_file,
        },
        expected,
    )
    del expected
    ratio = copying.ratio("torch", "safe_load")
    report.row("A, copying, vs torch", ratio, must=1, aim=1.5)
    ratio = mapped.ratio("torch mmap", "safe_load mmap")
    report.row("A, mmap, vs torch mmap", ratio, must=2)
    ratio = mapped.ratio("safetensors", "safe_load mmap")
    report.row("A, mmap, vs safetensors", ratio, aim=1)
    report.timings("A, copying", copying)
    report.timings("A, mapped", mapped)
    cold(report, "A", torch_file)
    memory(report, torch_file)


def memory(report: Report, path: Path) -> None:
    """Peak memory of loading shape A, in child processes."""
    tiny = shape_b(cache() / TINY.name, TINY)[0]
    size = path.stat().st_size
    peaks = {
        name: peak_bytes(name, path, tiny)
        for name in ("safe_load", "torch", "safe_load mmap", "torch mmap")
    }
    share = 100 * (peaks["safe_load"] / size - 1)
    report.row("A, copying, peak memory over file size", share, "%", must=10)
    mapped = peaks["safe_load mmap"] / MIB
    report.row("A, mmap, peak memory", mapped, "MiB", must=100)
    report.details += ["", "### A, peak memory beyond what stood before the load", ""]
    report.details += [f"- {name}: {n / MIB:,.0f} MiB" for name, n in peaks.items()]


def measure_b(report: Report) -> None:
    """Many small tensors."""
    print("B: 21,000 tensors of 64 floats, with their steps", flush=True)
    torch_file, flat_file = shape_b(FOLDER, FULL)
    timings = load_timings(
        {"safe_load": torch_file, "torch": torch_file, "safetensors": flat_file},
        torch.load(torch_file, weights_only=True),
        flat=True,
    )
    ratio = timings.ratio("torch", "safe_load")
    report.row("B, vs torch", ratio, must=5, aim=10)
    ratio = timings.ratio("safetensors", "safe_load")
    report.row("B, vs safetensors", ratio, aim=2)
    report.timings("B", timings)
    cold(report, "B", torch_file)


def measure_c(report: Report) -> None:
    """A large dictionary."""
    print("C: 500,000 strings to integers", flush=True)
    torch_file, bare = shape_c(FOLDER, FULL)
    timings = load_timings(
        {
            "safe_load": torch_file,
            "torch": torch_file,
            "pickle (C, unrestricted)": bare,
        },
        torch.load(torch_file, weights_only=True),
    )
    ratio = timings.ratio("torch", "safe_load")
    report.row("C, vs torch", ratio, must=4, aim=7)
    report.timings("C", timings)
    cold(report, "C", torch_file)


def measure_d(report: Report) -> None:
    """Real files, those that torch loads."""
    paths = [path for path in zoo_files(FULL) if torch_loads(path)]
    print(f"D: {len(paths)} real files that torch loads", flush=True)
    if not paths:
        report.details += ["", "### D", "", "The zoo is not beside this checkout."]
        return
    warm_cache(paths)

    def check(name: str, results: list[Any]) -> None:
        for path, result in zip(paths, results, strict=True):
            if found := differences(result, CONTENDERS["torch"](path)):
                raise AssertionError(f"{name}: {path.name}: {found[:3]}")

    timings = interleave(
        {
            name: lambda name=name: [CONTENDERS[name](path) for path in paths]
            for name in ("safe_load", "torch")
        },
        ROUNDS,
        check,
    )
    ratio = timings.ratio("torch", "safe_load")
    report.row(f"D, {len(paths)} real files, vs torch", ratio, aim=1)
    report.timings(f"D, all {len(paths)} files", timings)


def measure_scan(report: Report) -> None:
    """A folder of small checkpoints, ours against picklescan."""
    print("scan: 1,000 files of 30 tensors", flush=True)
    folder = small_folder(FOLDER, FULL)
    ours, peer = console_script("safemodel"), console_script("picklescan")
    warm_cache([path for path in folder.rglob("*") if path.is_file()])

    def check(name: str, result: Any) -> None:
        counts = {
            "safemodel": lambda: len(result),
            "picklescan": lambda: result.scanned_files,
        }
        # picklescan counts a second member of an archive if it looks like a pickle.
        if name in counts and counts[name]() < FULL.files:
            raise AssertionError(f"{name} looked at {counts[name]()} files")

    inside = interleave(
        {
            "safemodel": lambda: list(scan_files([folder])),
            "picklescan": lambda: scan_directory_path(folder),
        },
        ROUNDS,
        check,
    )
    outside = interleave(
        {
            "safemodel scan": lambda: run([ours, "scan", str(folder)]),
            "safemodel scan -j 2": lambda: run([ours, "scan", "-j", "2", str(folder)]),
            "picklescan": lambda: run([peer, "-p", str(folder)]),
        },
        ROUNDS,
    )
    ratio = inside.ratio("picklescan", "safemodel")
    report.row("scan in process, vs picklescan", ratio, must=1, aim=3)
    ratio = outside.ratio("picklescan", "safemodel scan")
    report.row("scan command, vs picklescan", ratio, must=1, aim=3)
    ratio = outside.ratio("picklescan", "safemodel scan -j 2")
    report.row("scan -j 2, vs picklescan", ratio, must=1.8)
    report.timings("scan of 1,000 files, in one process", inside)
    report.timings("scan of 1,000 files, as a command", outside)


def measure_start(report: Report) -> None:
    """What one small file costs over a bare interpreter."""
    print("start-up", flush=True)
    small = next(small_folder(FOLDER, FULL).rglob("*.pt"))
    contenders: dict[str, Callable[[], Any]] = {
        name: (lambda command=command: run(command))
        for name, command in commands(small).items()
    }
    timings = interleave(contenders, START_ROUNDS)
    bare = timings.rounds["python3 -c pass"]
    targets = {
        "safemodel scan": {"must": 100},
        "picklescan": {},
        "import safemodel": {"aim": 25},
        "safemodel --help": {},
    }
    for name, target in targets.items():
        pairs = zip(timings.rounds[name], bare, strict=True)
        extra_ms = 1000 * statistics.median(full - least for full, least in pairs)
        report.row(f"`{name}` over a bare interpreter", extra_ms, "ms", **target)
    report.timings("start-up", timings)


def measure_scrub(report: Report) -> None:
    """Scrubbing in place: against numpy, and against the speed of memory."""
    print("scrubbing")
    before = numbers(NUMBERS[FULL])
    after = before.copy()
    for name, scrub in scrubbers(after.size).items():
        scrub(after)
        check(name, before, after)
        after[:] = before
    timings = interleave(
        {
            name: lambda scrub=scrub: scrub(after)
            for name, scrub in scrubbers(after.size).items()
        },
        ROUNDS,
    )
    for method in ("random", "zero", "round"):
        name = f"scrub {method}"
        speed = after.nbytes / timings.median(name) / 1e9
        baseline = f"numpy {'random' if method == 'random' else 'zero'}"
        must = 4 if method == "random" else None
        report.row(
            f"{name}, {speed:.1f} GB/s, vs {baseline}",
            timings.ratio(baseline, name),
            must=must,
        )
        report.row(f"{name} vs memcpy", timings.ratio("memcpy", name), aim=0.5)
    bare = "numpy random, bare masks"
    report.row(f"scrub random vs {bare}", timings.ratio(bare, "scrub random"))
    report.timings("scrubbing 256 MiB of float32", timings)


def measure_disarm(report: Report) -> None:
    """A new file of 1 GB: against copying it, and against loading and saving."""
    print("disarm: 200 tensors, 1 GB", flush=True)
    source, _ = shape_a(FOLDER, FULL)
    warm_cache([source])
    outs = {name: FOLDER / f"out{suffix_of(name)}" for name in WRITERS}

    def check(name: str, _: Any) -> None:
        if not same(source, outs[name]):
            raise AssertionError(f"{name}: other tensors")

    def from_memory() -> None:
        settle(outs.values())

    def from_the_disk() -> None:
        settle(outs.values())
        forget(source)

    def timed(chosen: Iterable[str], prepare: Callable[[], None]) -> Timings:
        contenders: dict[str, Callable[[], Any]] = {
            name: partial(WRITERS[name], source, outs[name]) for name in chosen
        }
        timings = interleave(contenders, ROUNDS, check, prepare)
        settle(outs.values())
        return timings

    timings = timed(WRITERS, from_memory)
    for end in ("", ", no digests"):
        against_peers(report, timings, end)
    # What does the same work as disarm by default, for information.
    for suffix, peer in (
        (".pt", "cp, fsync and digests"),
        (".safetensors", "load, save_file, fsync and digests"),
    ):
        name = f"disarm to {suffix}"
        report.row(f"{name}, vs {peer}", timings.ratio(peer, name))
    for name in ("disarm to .pt", "disarm to .safetensors"):
        peak = writing_peak_bytes(name, source, outs[name]) / MIB
        report.row(f"{name}, peak memory", peak, "MiB", must=512)
    settle(outs.values())
    chosen = [name for name in WRITERS if "digests" not in name]
    read = timed(chosen, from_the_disk)
    against_peers(report, read, "", ", from the disk")
    report.timings("disarm, 1 GB in memory", timings)
    report.timings("disarm, 1 GB from the disk", read)


def against_peers(report: Report, timings: Timings, end: str, where: str = "") -> None:
    """Add the rows of what disarm is compared with."""
    for suffix in (".pt", ".safetensors"):
        name = f"disarm to {suffix}{end}"
        times = 1 / timings.ratio("cp and fsync", name)
        report.row(f"{name}{where}, time", times, "of cp and fsync", must=1.6, aim=1.1)
    for peer in ("load and save_file", "load, save_file and fsync"):
        ratio = timings.ratio(peer, name)
        report.row(f"{name}{where}, vs {peer}", ratio, must=1, aim=2)


MEASURES = {
    "a": measure_a,
    "b": measure_b,
    "c": measure_c,
    "d": measure_d,
    "scan": measure_scan,
    "start": measure_start,
    "scrub": measure_scrub,
    "disarm": measure_disarm,
    "protect": measure_pools,
    "protect-files": measure_protected_files,
    "detect": measure_detect,
}


def main(chosen: list[str]) -> None:
    """Measure everything, or what is named; replace those parts of RESULTS.md."""
    report, path = Report(), HERE / "RESULTS.md"
    for name in chosen or MEASURES:
        MEASURES[name](report)
        report.end_part(name)
    page = report.page(path.read_text(encoding="utf-8"), MEASURES)
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
