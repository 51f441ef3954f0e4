"""Measure how long `detect` takes, what it compiles, and its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from bench_detect_speed import (
    BINCOUNT,
    BINCOUNT_PIECES,
    COUNT,
    DRAWN,
    SIZES,
    compile_s,
    name_of,
    peak_mib,
    timed,
    timed_drawn,
    weights,
)
from generate import cache
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

    from measure import Timings
    from tables import Report

ROUNDS = 5
MUST = 3.0


def measure_detect(report: Report) -> None:
    """Everything of `detect`; the requirement is of tensors of a million weights."""
    print(f"{COUNT:,} weights of float32")
    timings = timed(COUNT, ROUNDS)
    large = max(SIZES)
    for size in SIZES:
        must = MUST if size == large else None
        _ratio(report, timings, size, BINCOUNT, must)
        _ratio(report, timings, size, BINCOUNT_PIECES, None)
    drawn = timed_drawn(COUNT, ROUNDS)
    figure = 1 / drawn.ratio(BINCOUNT, name_of(large, DRAWN))
    what = "weights as drawn, each block looked at closely, time"
    report.row(what, figure, f"of {BINCOUNT}")
    report.row("compiling the kernels for float32", compile_s(), "s")
    report.row("a file of these weights, peak memory", _peak(), "MiB", must=512)
    report.timings(f"looking at {COUNT:,} weights, seconds of a processor", timings)


def _ratio(
    report: Report, timings: Timings, size: int, peer: str, must: float | None
) -> None:
    figure = 1 / timings.ratio(peer, name_of(size))
    report.row(f"{COUNT:,} weights in {name_of(size)}, time", figure, f"of {peer}",
               must=must)  # fmt: skip


def _peak() -> float:
    """Return the peak of a file of two large tensors."""
    return peak_mib(_file())


def _file() -> Path:
    path = cache() / f"detect-{COUNT}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        half = torch.from_numpy(weights(COUNT // 2).view(np.float32))
        save_file({"a.weight": half, "b.weight": half.clone()}, path)
    return path
