"""Permuting a pool in memory, against the published shuffles and against a copy.

As tests at tiny size; timed on request, at full size with SAFEMODEL_BENCH=full.
`python benchmarks/bench_protect.py 0.25` prints the ratios of one run at so many GB,
and what compiling the kernels takes for each size of elements, both ways. Numpy's
shuffle takes 8 bytes an element more and is left out above 1 GB, or with `--no-numpy`.
`python benchmarks/bench_protect.py 0.25 --files FOLDER` measures file to file instead:
permuting and restoring a pool of so many GB, against `cp`, all with `fsync`.
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
from protect_peers import Tokens

from safemodel._protect.keys import ProtectionKey
from safemodel._protect.layout import PLAIN, STORED, Extent, Pool
from safemodel._protect.leaves import PoolTagger
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool
from safemodel._protect.tags import Tagger

if TYPE_CHECKING:
    from collections.abc import Callable

    from measure import Timings
    from numpy.typing import NDArray
    from pytest_benchmark.fixture import BenchmarkFixture

SIZES = FULL if os.environ.get("SAFEMODEL_BENCH") == "full" else TINY
ROUNDS, SLOW_ROUNDS = 7, 3
WIDTH = 1280
"""Floats of a row: those of the largest model in the published table."""


def count_of(gigabytes: float) -> int:
    """Return how many floats are so many GB, in whole rows."""
    return int(gigabytes * 1e9 / 4) // WIDTH * WIDTH


NUMBERS = {TINY: 64 * WIDTH, FULL: count_of(0.25)}

PROTECTION_KEY, FILE_ID = ProtectionKey(bytes(range(32))), bytes(range(32, 64))
KEY = PoolKey(PROTECTION_KEY, FILE_ID, epoch=0, pool="float32")

OURS, TAGGED = "permute_pool", "permute_pool and tags"
ROWS, SELECT = "rows, tensor[randperm]", "rows, index_select"
NUMPY, FERNET, COPY = "elements, numpy", "Fernet", "memcpy"
QUICK, SLOW = (OURS, TAGGED, ROWS, SELECT, COPY), (OURS, TAGGED, NUMPY, FERNET)
"""What takes turns: slow contenders have fewer rounds, with ours among them."""

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
    is called as torch calls it, but for the buffer it writes to. Tags are those that
    `protect` takes: of the pool in both orders.
    """
    pool = pool_of(source)
    tagger = Tagger.keyed(PROTECTION_KEY, FILE_ID, 0)
    plain, stored = (PoolTagger(tagger, 0, pool, order) for order in (PLAIN, STORED))
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

    def tagged() -> tuple[list[bytes], list[bytes]]:
        before = plain.leaves_in(source.data.cast("B"))
        permute_pool(source, target, KEY)
        return before, stored.leaves_in(target.data.cast("B"))

    tokens = Tokens()

    def by_fernet() -> int:
        tokens.encrypt(source.data.cast("B"))
        return tokens.length

    return {
        OURS: lambda: permute_pool(source, target, KEY),
        TAGGED: tagged,
        ROWS: by_index,
        SELECT: by_select,
        NUMPY: by_numpy,
        FERNET: by_fernet,
        COPY: lambda: np.copyto(target, source),
    }


def pool_of(array: NDArray[Any]) -> Pool:
    """Return an array as the pool of one tensor."""
    length = array.nbytes
    stored, plain = (
        (Extent(name, (array.size,), 0, length),) for name in ("0f", "layer.weight")
    )
    return Pool(dtype="float32", itemsize=4, length=length, stored=stored, plain=plain)


def fingerprint(array: NDArray[Any]) -> int:
    """Return a number that depends on the elements and not on their order."""
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for start in range(0, array.size, 1 << 20):
            part = array[start : start + (1 << 20)].view(np.uint32).astype(np.uint64)
            part *= np.uint64(0x9E3779B97F4A7C15)
            part ^= part >> np.uint64(29)
            part *= np.uint64(0xBF58476D1CE4E5B9)
            total += (part ^ part >> np.uint64(32)).sum()
    return int(total)


def check(
    name: str, source: NDArray[Any], target: NDArray[Any], result: object
) -> None:
    """Assert that a contender did what its name says."""
    if name == FERNET:
        assert type(result) is int
        assert result > source.nbytes * 4 / 3
        return
    same = sum(
        int((source[at : at + (1 << 20)] == target[at : at + (1 << 20)]).sum())
        for at in range(0, source.size, 1 << 20)
    )
    assert same == source.size if name == COPY else same < 0.1 * source.size
    assert fingerprint(source) == fingerprint(target)
    if name == TAGGED:
        pool, key = pool_of(source), Tagger.keyed(PROTECTION_KEY, FILE_ID, 0)
        leaves = [
            PoolTagger(key, 0, pool, order).leaf(0, array.data.cast("B")[: 1 << 20])
            for order, array in ((PLAIN, source), (STORED, target))
        ]
        assert isinstance(result, tuple)
        assert leaves == [found[0] for found in result]


@pytest.mark.parametrize("name", list(contenders(weights(WIDTH), weights(WIDTH))))
def test_permute(benchmark: BenchmarkFixture, name: str) -> None:
    """Each does what it is timed for."""
    source = weights(NUMBERS[SIZES])
    target = aligned(source.size, np.float32)
    result = benchmark(contenders(source, target)[name])
    check(name, source, target, result)


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


def timed(gigabytes: float, names: tuple[str, ...], rounds: int) -> tuple[int, Timings]:
    """Return how many bytes there were, and what contenders took, in turns.

    Each result is checked in the round that does not count.
    """
    source = weights(count_of(gigabytes))
    target = aligned(source.size, source.dtype)
    all_of_them = contenders(source, target)
    some = {name: all_of_them[name] for name in names}
    return source.nbytes, interleave(
        some, rounds, lambda name, result: check(name, source, target, result)
    )


def main(gigabytes: float, *, slow: bool) -> None:
    """Measure at one size, and print ratios and medians."""
    names, rounds = (SLOW, SLOW_ROUNDS) if slow else (QUICK, ROUNDS)
    size, timings = timed(gigabytes, names, rounds)
    print(f"{size:,} bytes of float32, {rounds} rounds, medians")
    for name in names:
        print(
            f"{name:24} {timings.median(name):8.3f} s   takes"
            f" {1 / timings.ratio(OURS, name):7.2f} x as long as {OURS}"
        )


if __name__ == "__main__":
    main(float(sys.argv[1]), slow="--slow" in sys.argv)
    for dtype in (*ALL.split(), ALL):
        print(f"compiling, {dtype:16} {compile_s(dtype):6.2f} s")
