"""How long `detect` looks at weights, against `numpy.bincount` of their low bytes.

As tests at tiny size; `benchmarks/report.py detect` measures 10**8 weights of float32.
Contenders are asked for their time of a processor, all threads together: what is wanted
is one core's.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from measure import HERE, MIB, interleave, processor_s, run

from safemodel._detector.statistics import Statistics, examine
from safemodel._detector.weights import PIECE, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from measure import Timings
    from numpy.typing import NDArray
    from pytest_benchmark.fixture import BenchmarkFixture

COUNT = 100_000_000
SIZES = (1 << 20, 1 << 16, 1 << 12)
BINCOUNT, BINCOUNT_PIECES = "bincount", "bincount by pieces"
TRAINED, DRAWN = "trained", "as drawn"
_DRAWN_PART = 10
"""Weights as drawn take long: there are so many times fewer."""
BLOCK = 1 << 22

COMPILE = """
import sys, time
sys.path.insert(0, {here!r})
import bench_detect_speed as bench, numpy
seconds = []
for kind in ("trained", "as drawn", "trained", "as drawn"):
    words = bench.weights(70_000, kind)
    began = time.process_time()
    bench.looked_at(words, 1 << 20)
    seconds.append(time.process_time() - began)
print(sum(seconds[:2]) - sum(seconds[2:]))
"""
MEMORY = """
import pathlib, sys
import safemodel
found = safemodel.detect(sys.argv[1])
text = pathlib.Path("/proc/self/status").read_text()
print(int(text.split("VmHWM:")[1].split()[0]) * 1024)
"""


def weights(count: int, kind: str = TRAINED) -> NDArray[np.uint32]:
    """Return words of float32: as training leaves them, or as an initialiser drew them.

    What was drawn evenly with fewer bits than a float32 has, and moved by its bound,
    skips low bits, so each block of it is looked at closely.
    """
    random = np.random.default_rng(0)
    words = np.empty(count, np.uint32)
    for at in range(0, count, BLOCK):
        size = min(BLOCK, count - at)
        if kind == DRAWN:
            bound = np.float32(1 / 28)
            drawn = random.random(size, np.float32) * (2 * bound) - bound
        else:
            drawn = (random.standard_normal(size) * 0.02).astype(np.float32)
        words[at : at + size] = drawn.view(np.uint32)
    return words


def items(words: NDArray[np.uint32], size: int) -> Iterator[Weights]:
    """Yield words as tensors of a size, in pieces."""
    for number, at in enumerate(range(0, words.size, size)):
        tensor = words[at : at + size]
        for start in range(0, tensor.size, PIECE):
            yield Weights(f"layer{number}.weight", "float32",
                          tensor[start : start + PIECE], "weight", (tensor.size,),
                          start, tensor.size)  # fmt: skip


def looked_at(words: NDArray[np.uint32], size: int) -> Statistics:
    """Make all tests over tensors of a size."""
    return examine(items(words, size))


def low_bytes(words: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return the low byte of each word."""
    found = np.empty(words.size, np.uint8)
    for at in range(0, words.size, BLOCK):
        part = slice(at, at + BLOCK)
        found[part] = words[part] & np.uint32(0xFF)
    return found


def by_pieces(low: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return what `bincount` counts, of pieces that stay in the caches: its best."""
    total = np.zeros(256, np.int64)
    for at in range(0, low.size, PIECE):
        total += np.bincount(low[at : at + PIECE], minlength=256)
    return total


def contenders(
    words: NDArray[np.uint32], low: NDArray[np.uint8], sizes: tuple[int, ...] = SIZES
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    ours = {name_of(size): partial(looked_at, words, size) for size in sizes}
    return ours | {
        BINCOUNT: lambda: np.bincount(low, minlength=256),
        BINCOUNT_PIECES: lambda: by_pieces(low),
    }


def name_of(size: int, kind: str = TRAINED) -> str:
    """Return the name of tensors of a size."""
    drawn = f", {kind}" if kind != TRAINED else ""
    return f"tensors of {size:,}{drawn}"


def check(words: NDArray[np.uint32], name: str, result: Any) -> None:
    """Assert that all weights were looked at, and that nothing is found in them."""
    if isinstance(result, Statistics):
        assert sum(one.size for one in result.tensors) >= words.size - 256
        if DRAWN not in name:
            assert result.evidence() == ()
    else:
        assert result.sum() == words.size


def timed(count: int, rounds: int, sizes: tuple[int, ...] = SIZES) -> Timings:
    """Return what contenders took, in seconds of a processor, in turns."""
    words = weights(count)
    some = contenders(words, low_bytes(words), sizes)
    return interleave(some, rounds, partial(check, words), clock=processor_s)


def timed_drawn(count: int, rounds: int) -> Timings:
    """Return the same for weights as they are drawn, in tensors of a million."""
    words = weights(count // _DRAWN_PART, DRAWN)
    low = low_bytes(words)
    some: dict[str, Callable[[], Any]] = {
        name_of(1 << 20, DRAWN): partial(looked_at, words, 1 << 20),
        BINCOUNT: lambda: np.bincount(low, minlength=256),
    }
    return interleave(
        some, rounds, lambda name, result: check(words, name, result), clock=processor_s
    )


def compile_s() -> float:
    """Return what the first calls for float32 take more than the second ones.

    Of what every file needs, and of what needs blocks that are odd, in a new process.
    """
    return float(run([sys.executable, "-c", COMPILE.format(here=str(HERE))]))


def peak_mib(path: Path) -> float:
    """Return the largest resident memory of a fresh process that looks at a file."""
    return int(run([sys.executable, "-c", MEMORY, str(path)])) / MIB


@pytest.mark.parametrize("size", SIZES)
def test_look(benchmark: BenchmarkFixture, size: int) -> None:
    """All weights are looked at."""
    words = weights(100_000)
    check(words, name_of(size), benchmark(looked_at, words, size))


@pytest.mark.parametrize("name", [BINCOUNT, BINCOUNT_PIECES])
def test_count(benchmark: BenchmarkFixture, name: str) -> None:
    """Either counts all low bytes."""
    words = weights(100_000)
    check(words, name, benchmark(contenders(words, low_bytes(words))[name]))


def test_weights_as_drawn_are_looked_at_closely() -> None:
    """Otherwise their time would be that of others."""
    drawn, trained = (looked_at(weights(1 << 17, kind), 1 << 17).tensors[0].suspects
                      for kind in (DRAWN, TRAINED))  # fmt: skip
    assert (drawn, trained) == (1.0, 0.0)


def test_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It has all rows, of which no figure is nothing."""
    import report_detect
    from tables import Report

    monkeypatch.setenv("SAFEMODEL_BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(report_detect, "ROUNDS", 1)
    monkeypatch.setattr(report_detect, "COUNT", 200_000)
    report = Report()
    report_detect.measure_detect(report)
    assert len(report.rows) == 2 * len(SIZES) + 3
    assert all(row.figure > 0 for row in report.rows)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    for timings in (timed(count, 3), timed_drawn(count, 3)):
        for name in timings.rounds:
            seconds, ratio = timings.median(name), 1 / timings.ratio(BINCOUNT, name)
            print(f"{name:32} {seconds:8.3f} s {ratio:8.2f} of {BINCOUNT}")
    print(f"compiling {compile_s():.2f} s")
