"""How things are measured: interleaved, with medians, and memory in a child process.

Contenders take turns within each round, so that a slow minute of the machine slows
all of them. Ratios are medians of the rounds' ratios, not ratios of medians.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

HERE = Path(__file__).resolve().parent
MIB = 1 << 20


@dataclass
class Timings:
    """Seconds of every round, by contender."""

    rounds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Return the median time of a contender, in seconds."""
        return statistics.median(self.rounds[name])

    def ratio(self, baseline: str, name: str) -> float:
        """Return how many times faster than the baseline a contender is."""
        pairs = zip(self.rounds[baseline], self.rounds[name], strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)


def interleave(
    contenders: dict[str, Callable[[], Any]],
    rounds: int,
    check: Callable[[str, Any], None] | None = None,
    prepare: Callable[[], None] = gc.collect,
    clock: Callable[[], float] = time.perf_counter,
) -> Timings:
    """Time every contender once a round; the first of a round changes each time.

    Args:
        contenders: Name to what is timed.
        rounds: Rounds that count; one more comes before them, to warm up.
        check: Called with each result of the warm-up round, outside the clock.
        prepare: Called before each of them, outside the clock.
        clock: Tells the time; `processor_s` that of a processor, all threads together.
    """
    timings = Timings({name: [] for name in contenders})
    names = list(contenders)
    for number in range(-1, rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            prepare()
            start = clock()
            result = contenders[name]()
            elapsed_s = clock() - start
            if number >= 0:
                timings.rounds[name].append(elapsed_s)
            elif check is not None:
                check(name, result)
            del result
    return timings


def processor_s() -> float:
    """Return the seconds of a processor that this process has had."""
    return time.process_time()


def warm_cache(paths: Sequence[Path]) -> None:
    """Read files once, so that nobody pays for the disk."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(16 * MIB):
                pass


def run(command: Sequence[str], *, allowed: Sequence[int] = (0,)) -> str:
    """Run a command and return its output; other exit codes are an error."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in allowed:
        raise RuntimeError(f"{command}: exit {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


_COLD = """
import sys, time
sys.path.insert(0, {here!r})
import torch, safemodel
from contenders import CONTENDERS
start = time.perf_counter()
result = CONTENDERS[{name!r}](__import__("pathlib").Path({path!r}))
print(time.perf_counter() - start)
"""


def cold_load_s(name: str, path: Path) -> float:
    """Return the time of the first load in a fresh process, imports done before."""
    program = _COLD.format(here=str(HERE), name=name, path=str(path))
    return float(run([sys.executable, "-c", program]))


# The high-water mark is reset after a first load of a tiny file, so what torch and
# the loader need to exist is not counted, and everything the load needs is.
_MEMORY = """
import gc, sys, pathlib
sys.path.insert(0, {here!r})
import torch, safemodel
from contenders import CONTENDERS
def status(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
load = CONTENDERS[{name!r}]
load(pathlib.Path({tiny!r}))
gc.collect()
before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")
result = load(pathlib.Path({path!r}))
print(status("VmHWM") - before)
"""


def peak_bytes(name: str, path: Path, tiny: Path) -> int:
    """Return how far a load raises the resident memory of a fresh process."""
    program = _MEMORY.format(here=str(HERE), name=name, path=str(path), tiny=str(tiny))
    return int(run([sys.executable, "-c", program]))


# As above, of something that takes an input and an output; nothing ran before it.
_WRITING = """
import pathlib, sys
sys.path.insert(0, {here!r})
from bench_disarm import CONTENDERS
write = CONTENDERS[{name!r}]
write(pathlib.Path({path!r}), pathlib.Path({out!r}))
text = pathlib.Path("/proc/self/status").read_text()
print(int(text.split("VmHWM:")[1].split()[0]) * 1024)
"""


def writing_peak_bytes(name: str, path: Path, out: Path) -> int:
    """Return the largest resident memory of a fresh process that writes a file."""
    program = _WRITING.format(here=str(HERE), name=name, path=str(path), out=str(out))
    return int(run([sys.executable, "-c", program]))


def console_script(name: str) -> str:
    """Return the path of a command installed beside this interpreter."""
    return str(Path(sys.executable).with_name(name))


def machine() -> list[str]:
    """Return what the figures depend on: hardware and versions, no names or paths."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    packages = ("torch", "numpy", "safetensors", "numba", "picklescan")
    return [
        f"CPU: {model}, {os.cpu_count()} cores",
        f"Memory: {memory:.0f} GiB",
        f"Kernel: {platform.system()} {platform.release().split('-')[0]}",
        f"Python: {platform.python_version()}",
        *(f"{package}: {version(package)}" for package in packages),
    ]
