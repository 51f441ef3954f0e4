"""Measure protected files: in memory, from file to file, and what they take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bench_protect as memory
from bench_disarm import settle
from bench_protect_files import (
    CONFIDENTIAL,
    CP,
    GCM,
    HASH,
    PROTECT,
    RESTORE,
    ROTATE,
    VERIFY,
    Files,
    check,
    contenders,
    peak_mib,
)
from generate import FULL, cache, protectable
from measure import interleave, warm_cache

if TYPE_CHECKING:
    from measure import Timings
    from tables import Report

SIZES_GB = (0.25, 1.0, 2.5)
PT_GB = 1.0
FILE_ROUNDS = 5
UNBOUND_ROUNDS = 3
UNBOUND = (RESTORE, ROTATE)
"""What no bound is set for. It takes three times as long as all the rest."""


def measure_pools(report: Report) -> None:
    """Permuting pools in memory, and what compiling the kernels takes."""
    for gigabytes in SIZES_GB:
        measure_pool(report, gigabytes)
    seconds = memory.compile_s(memory.ALL)
    report.row("compiling all kernels, both ways", seconds, "s", must=3)


def measure_protected_files(report: Report) -> None:
    """`protect`, `verify`, `restore` and `rotate` from file to file."""
    peaks: dict[str, float] = {}
    for gigabytes in SIZES_GB:
        measure_files(report, gigabytes, "safetensors", peaks)
    measure_files(report, PT_GB, "pt", peaks)
    for name, most in peaks.items():
        what = f"{name}, peak memory, most of all sizes"
        report.row(what, most, "MiB", must=512, aim=256)


def measure_pool(report: Report, gigabytes: float) -> None:
    """A pool in memory: against the published shuffles, and against Fernet."""
    print(f"a pool of {gigabytes:g} GB")
    size = f"{gigabytes:g} GB in memory"
    _, quick = memory.timed(gigabytes, memory.QUICK, memory.ROUNDS)
    _, slow = memory.timed(gigabytes, memory.SLOW, memory.SLOW_ROUNDS)
    ours = memory.OURS
    _time(report, f"{size}: {ours}", quick, (memory.ROWS, ours), must=2, aim=1)
    _time(report, f"{size}: {ours}", quick, (memory.SELECT, ours))
    for name, peer, must, aim in (
        (ours, memory.NUMPY, 20, 50),
        (memory.TAGGED, memory.FERNET, 12, 30),
    ):
        ratio = slow.ratio(peer, name)
        report.row(f"{size}: {name}, vs {peer}", ratio, must=must, aim=aim)
    report.timings(f"a pool of {gigabytes:g} GB of float32", quick)
    report.timings(
        f"the same, beside what takes long, {memory.SLOW_ROUNDS} rounds", slow
    )


def measure_files(
    report: Report, gigabytes: float, suffix: str, peaks: dict[str, float]
) -> None:
    """A file: against copying, hashing and encrypting it; adds to the peaks."""
    print(f"a .{suffix} of {gigabytes:g} GB")
    plain = protectable(cache() / FULL.name, FULL, gigabytes, suffix)
    files = Files.of(plain)
    warm_cache([files.plain, files.stored])
    others = tuple(name for name in contenders(files) if name not in UNBOUND)
    timings = _interleaved(files, others, FILE_ROUNDS)
    unbound = _interleaved(files, (CP, *UNBOUND), UNBOUND_ROUNDS)
    what = f"{gigabytes:g} GB .{suffix}:"
    _time(report, f"{what} {PROTECT}", timings, (CP, PROTECT), must=3, aim=1.5)
    pair = GCM, CONFIDENTIAL
    _time(report, f"{what} {CONFIDENTIAL}", timings, pair, must=1.5, aim=1)
    ratio = timings.ratio(HASH, VERIFY)
    report.row(f"{what} {VERIFY}, vs {HASH}", ratio, must=1, aim=1.7)
    for name in UNBOUND:
        _time(report, f"{what} {name}", unbound, (CP, name))
    for name in (PROTECT, VERIFY, RESTORE, ROTATE):
        peaks[name] = max(peaks.get(name, 0), peak_mib(name, files))
    report.timings(f"a .{suffix} of {gigabytes:g} GB", timings)
    report.timings(
        f"the same, beside what has no bound, {UNBOUND_ROUNDS} rounds", unbound
    )
    settle([files.out, files.stored])


def _interleaved(files: Files, names: tuple[str, ...], rounds: int) -> Timings:
    """Time some contenders in turns."""
    every = contenders(files)
    return interleave(
        {name: every[name] for name in names},
        rounds,
        lambda name, result: check(name, files, result),
        lambda: settle([files.out]),
    )


def _time(
    report: Report,
    what: str,
    timings: Timings,
    pair: tuple[str, str],
    *,
    must: float | None = None,
    aim: float | None = None,
) -> None:
    """Add the time of one contender in that of a peer; less is better."""
    peer, name = pair
    figure = 1 / timings.ratio(peer, name)
    report.row(f"{what}, time", figure, f"of {peer}", must=must, aim=aim)
