"""Scrubbing an array in place, against numpy doing the same and against a copy.

As tests at tiny size; timed on request, at full size with SAFEMODEL_BENCH=full.
`benchmarks/report.py scrub` measures one run, and replaces that part of RESULTS.md.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from generate import FULL, TINY

from safemodel.scrub import Scrub, scrub_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY
NUMBERS = {TINY: 10_000, FULL: 64 << 20}
LOW, EXPONENT, ONE = np.uint32(0xFFF), np.uint32(0x7F800000), np.uint32(0x1000)


def numbers(count: int) -> NDArray[np.float32]:
    """Return float32 weights; a few are no numbers, and a few are zero."""
    made = np.random.default_rng(0).standard_normal(count, np.float32)
    made[:3] = [np.nan, np.inf, 0]
    return made


def keystream(count: int) -> NDArray[np.uint32]:
    """Return random words of the cipher that the scrub uses, all at once."""
    stream = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), None).encryptor()
    return np.frombuffer(stream.update(bytes(4 * count)), np.uint32)


def masks(made: NDArray[np.float32], noise: NDArray[np.uint32] | np.uint32) -> None:
    """Write noise, or zeros, into the low bits of numbers: the same rules, in numpy."""
    words = made.view(np.uint32)
    exponent = words & EXPONENT
    kept = words & ~LOW
    filled = np.where(exponent == 0, kept, kept | noise & LOW)
    words[:] = np.where(exponent == EXPONENT, words, filled)


def bare_masks(made: NDArray[np.float32], noise: NDArray[np.uint32]) -> None:
    """Write noise that is there already, without regard to zeros and NaN."""
    words = made.view(np.uint32)
    words[:] = words & ~LOW | noise & LOW


def contenders(count: int) -> dict[str, Callable[[NDArray[np.float32]], Any]]:
    """Return what is timed, by name; each changes or reads the array it is given."""
    target = np.empty(count, np.float32)
    ready = keystream(count)
    ours: dict[str, Callable[[NDArray[np.float32]], Any]] = {
        f"scrub {method}": lambda made, method=method: scrub_array(
            made, "float32", Scrub(method=method)
        )
        for method in ("random", "zero", "round")
    }
    return ours | {
        "numpy random": lambda made: masks(made, keystream(count)),
        "numpy zero": lambda made: masks(made, np.uint32(0)),
        "numpy random, bare masks": lambda made: bare_masks(made, ready),
        "memcpy": lambda made: np.copyto(target, made),
    }


def check(name: str, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """Assert that an array was scrubbed by the rules, or not at all."""
    old, new = before.view(np.uint32), after.view(np.uint32)
    if name == "memcpy":
        assert (old == new).all()
    elif name.endswith("zero"):
        expected = np.where(old & EXPONENT == EXPONENT, old, old & ~LOW)
        assert (new == expected).all()
    else:
        assert abs(float(np.mean((old ^ new) & np.uint32(1))) - 0.5) < 0.05
    if "bare" not in name:
        assert (new[:3] == old[:3]).all()
    if "round" not in name:
        assert (old >> np.uint32(12) == new >> np.uint32(12)).all()


@pytest.mark.parametrize("name", list(contenders(1)))
def test_scrub(benchmark: BenchmarkFixture, name: str) -> None:
    """Each overwrites twelve bits of every number, and of nothing else."""
    count = NUMBERS[SIZES]
    before = numbers(count)
    after = before.copy()
    benchmark(contenders(count)[name], after)
    check(name, before, after)
