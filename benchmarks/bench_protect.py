"""Permuting a pool in memory, against the published shuffles and against a copy.

As tests at tiny size; timed on request, at full size with SAFEMODEL_BENCH=full.
`python benchmarks/bench_protect.py 0.25` prints the ratios of one run at so many GB,
and what compiling the kernels takes for each size of elements, both ways. Numpy's
shuffle takes 8 bytes an element more and is left out above 1 GB, or with `--no-numpy`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from generate import FULL, TINY
from measure import interleave

from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY
NUMBERS = {TINY: 1280 * 64, FULL: 1280 * 50_000}
ROUNDS = 7
WIDTH = 1280
"""Floats of a row: those of the largest model in the published table."""

KEY = PoolKey(
    ProtectionKey(bytes(range(32))), bytes(range(32, 64)), epoch=0, pool="float32"
)

OURS = "permute_pool"
ROWS, SELECT = "rows, tensor[randperm]", "rows, index_select"
NUMPY, COPY = "elements, numpy", "memcpy"

ALL = "u1 u2 u4 u8 c16"
"""One type of each size of elements."""

COMPILE = """
import sys, time
import safemodel._kernels.permute  # numpy and LLVM are no kernels
import cryptography.hazmat.primitives.kdf.hkdf, cryptography.hazmat.primitives.ciphers
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool
key = PoolKey(ProtectionKey(bytes(32)), bytes(32), epoch=0, pool="p")
pools = [(aligned(1 << 18, t), aligned(1 << 18, t)) for t in sys.argv[1].split()]
times = []
for _ in range(2):
    start = time.process_time()
    for source, target in pools:
        source[:] = 1
        permute_pool(source, target, key)
        restore_pool(target, source, key)
    times.append(time.process_time() - start)
print(times[0] - times[1])
"""


def weights(count: int) -> NDArray[np.float32]:
    """Return float32 weights, no two the same in practice."""
    made = aligned(count, np.float32)
    rand = np.random.default_rng(0)
    for start in range(0, count, 1 << 20):
        part = made[start : start + (1 << 20)]
        part[:] = rand.standard_normal(part.size, np.float32)
    return made


def contenders(
    source: NDArray[np.float32], target: NDArray[np.float32]
) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name: each writes the target, which is there already.

    Every shuffle draws its order anew, as it must to protect anything. `tensor[...]`
    is called as torch calls it, but for the buffer it writes to.
    """
    rows = torch.from_numpy(source.reshape(-1, WIDTH))
    out = torch.from_numpy(target.reshape(-1, WIDTH))

    def by_index() -> None:
        order = torch.randperm(rows.shape[0])
        torch.ops.aten.index.Tensor_out(rows, [order], out=out)

    def by_select() -> None:
        torch.index_select(rows, 0, torch.randperm(rows.shape[0]), out=out)

    def by_numpy() -> None:
        order = np.random.default_rng().permutation(source.size)
        np.take(source, order, out=target, mode="clip")

    return {
        OURS: lambda: permute_pool(source, target, KEY),
        ROWS: by_index,
        SELECT: by_select,
        NUMPY: by_numpy,
        COPY: lambda: np.copyto(target, source),
    }


def check(name: str, source: NDArray[Any], target: NDArray[Any]) -> None:
    """Assert that a target has the source's elements, moved as the name says."""
    moved = (source.view(np.uint32) != target.view(np.uint32)).mean()
    assert moved == 0 if name == COPY else moved > 0.9
    old, new = (np.sort(array.view(np.uint32)) for array in (source, target))
    assert (old == new).all()


@pytest.mark.parametrize("name", list(contenders(weights(WIDTH), weights(WIDTH))))
def test_permute(benchmark: BenchmarkFixture, name: str) -> None:
    """Each has all elements in the target."""
    source = weights(NUMBERS[SIZES])
    target = aligned(source.size, np.float32)
    benchmark(contenders(source, target)[name])
    check(name, source, target)


def test_restore(benchmark: BenchmarkFixture) -> None:
    """What comes back is what went, bit by bit."""
    source, target = weights(NUMBERS[SIZES]), aligned(NUMBERS[SIZES], np.float32)
    back = aligned(source.size, np.float32)

    def once() -> None:
        permute_pool(source, target, KEY)
        restore_pool(target, back, KEY)

    benchmark(once)
    assert (back.view(np.uint32) == source.view(np.uint32)).all()


def compile_s(dtypes: str) -> float:
    """Return what the first calls take more than the second, in a new process.

    Of both ways, for one type or for several one after the other.
    In seconds of a processor: one thread compiles, and others may be busy meanwhile.
    """
    command = [sys.executable, "-c", COMPILE, dtypes]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_compiling_is_measured() -> None:
    """There is something to compile, and it ends."""
    assert 0 < compile_s("u4") < 60


def main(gigabytes: float, *, numpy: bool, rounds: int) -> None:
    """Measure at one size, and print ratios and medians."""
    count = int(gigabytes * 1e9 / 4) // WIDTH * WIDTH
    source, target = weights(count), aligned(count, np.float32)
    timed = contenders(source, target)
    if not numpy:
        del timed[NUMPY]
    if gigabytes < 1:
        for name, run in timed.items():
            run()
            check(name, source, target)
    timings = interleave(timed, rounds)
    print(f"{gigabytes} GB of float32, {rounds} rounds, medians")
    for name in timed:
        times = 1 / timings.ratio(name, OURS) if name != OURS else 1.0
        print(f"{name:24} {timings.median(name):8.3f} s   ours takes {times:6.2f} x")


if __name__ == "__main__":
    size = float(sys.argv[1])
    main(size, numpy="--no-numpy" not in sys.argv and size <= 1, rounds=ROUNDS)
    for dtype in (*ALL.split(), ALL):
        print(f"compiling, {dtype:16} {compile_s(dtype):6.2f} s")
