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
from filecmp import cmp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from generate import FULL, TINY
from measure import interleave

from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool
from safemodel._protect.pool_stream import CHUNK, permuted, restored
from safemodel._protect.scratch import Scratch

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

COMPILE = """
import sys, time
import safemodel._kernels.permute  # numba itself is no kernel
import cryptography.hazmat.primitives.kdf.hkdf, cryptography.hazmat.primitives.ciphers
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.permutation import PoolKey, aligned, permute_pool, restore_pool
key = PoolKey(ProtectionKey(bytes(32)), bytes(32), epoch=0, pool="p")
source, target = aligned(1 << 18, sys.argv[1]), aligned(1 << 18, sys.argv[1])
source[:] = 1
times = []
for _ in range(2):
    start = time.process_time()
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


class Files:
    """A pool in a file, and what is made of it: each writes `out` and syncs it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.plain, self.stored = folder / "pool.plain", folder / "pool.stored"
        self.out = folder / "pool.out"
        self._scratch = Scratch(folder)
        self._length = 4 * count
        weights(count).tofile(self.plain)

    def copy(self) -> None:
        """Copy the pool as `cp` does."""
        subprocess.run(["/bin/cp", self.plain, self.out], check=True)
        with self.out.open("rb") as file:
            os.fsync(file.fileno())

    def permute(self) -> None:
        """Write the pool in stored order."""
        with self.plain.open("rb") as file, self.out.open("wb") as out:

            def read(at: int, view: memoryview) -> None:
                assert os.preadv(file.fileno(), [view], at) == len(view)

            for chunk in permuted(read, self._length, 4, KEY, scratch=self._scratch):
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())

    def restore(self) -> None:
        """Write the stored pool in plain order."""
        with self.stored.open("rb") as file, self.out.open("wb") as out:

            def write(at: int, view: memoryview) -> None:
                assert os.pwrite(out.fileno(), view, at) == len(view)

            room = memoryview(bytearray(CHUNK))
            chunks = iter(lambda: room[: file.readinto(room)], b"")
            restored(chunks, self._length, 4, KEY, write, scratch=self._scratch)
            os.fsync(out.fileno())

    def check(self) -> None:
        """Assert that what is permuted is in another order, and comes back."""
        self.permute()
        self.out.rename(self.stored)
        assert self.stored.stat().st_size == self._length
        assert not cmp(self.plain, self.stored, shallow=False)
        self.restore()
        assert cmp(self.plain, self.out, shallow=False)


def test_files(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Permuted and restored from file to file, it is the file that it was."""
    files = Files(tmp_path, NUMBERS[SIZES])
    files.check()
    benchmark(files.permute)
    assert cmp(files.out, files.stored, shallow=False)


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


def compile_s(dtype: str) -> float:
    """Return what the first calls take more than the second, in a new process.

    In seconds of a processor: one thread compiles, and others may be busy meanwhile.
    """
    command = [sys.executable, "-c", COMPILE, dtype]
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


def main_files(gigabytes: float, folder: Path, *, rounds: int) -> None:
    """Measure from file to file, and print ratios and medians."""
    files = Files(folder, int(gigabytes * 1e9 / 4))
    files.check()
    timed = {"cp": files.copy, "permuted": files.permute, "restored": files.restore}
    timings = interleave(timed, rounds, prepare=lambda: files.out.unlink(True))
    print(f"{gigabytes} GB of float32, file to file, fsync, {rounds} rounds, medians")
    for name in timed:
        times = timings.ratio(name, "cp")
        print(f"{name:24} {timings.median(name):8.3f} s   {times:6.2f} x of cp")
    for path in (files.plain, files.stored, files.out):
        path.unlink()


if __name__ == "__main__":
    size = float(sys.argv[1])
    if "--files" in sys.argv:
        main_files(size, Path(sys.argv[sys.argv.index("--files") + 1]), rounds=3)
        sys.exit()
    main(size, numpy="--no-numpy" not in sys.argv and size <= 1, rounds=ROUNDS)
    for dtype in ("u4", "u2", "u1", "u8", "c16"):
        print(f"compiling, {dtype:4} {compile_s(dtype):6.2f} s")
