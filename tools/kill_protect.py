"""Kill protect, restore and rotate at random moments, and look at what they leave.

``python tools/kill_protect.py --count 40 --mebibytes 512`` (`make kill`) protects,
restores and rotates a model of that size, also in place of itself, again and again,
each time killed (SIGKILL) at a random moment between the start and the end of an
undisturbed run. The target has to be the old file or a new one, whole, after each.
"""

from __future__ import annotations

import argparse
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from safemodel import ProtectionKey, restore, verify
from safemodel._rewrite.output import SUFFIX

_TENSOR = 4 << 20  # bytes
_BROKEN = "neither: BROKEN"


class Files(NamedTuple):
    """Where everything lies.

    Attributes:
        folder: All of it.
        plain: The model.
        protected: The same, protected; the file that is rotated in place is a copy.
        key: The key file.
        state: Remembers epochs.
        target: What is written.
    """

    folder: Path
    plain: Path
    protected: Path
    key: Path
    state: Path
    target: Path


def main() -> int:
    """Run; return 1 if a target was neither the old file nor a new one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--mebibytes", type=int, default=512)
    options = parser.parse_args()
    broken = 0
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        files = prepare(Path(name), options.mebibytes << 20)
        for verb in ("protect", "restore", "rotate", "rotate in place"):
            outcomes = kills(files, verb, -(-options.count // 4))
            broken += outcomes[_BROKEN]
            for outcome, times in sorted(outcomes.items()):
                sys.stdout.write(f"{verb:15} {times:4} x {outcome}\n")
    return 1 if broken else 0


def prepare(folder: Path, size: int) -> Files:
    """Make a model of some bytes, a key, and the model protected."""
    files = Files(
        folder, *(folder / name for name in ("in.pt", "p.pt", "key", "seen", "out.pt"))
    )
    count = max(1, size // _TENSOR)
    torch.save({f"w{i}": torch.randn(_TENSOR // 4) for i in range(count)}, files.plain)
    ProtectionKey.generate().to_file(files.key)
    run(files, ["protect", files.plain, files.protected])
    return files


def run(
    files: Files, arguments: list[object], *, wait: bool = True
) -> subprocess.Popen:
    """Start a command with the key; it has to end well if it is waited for."""
    command = [sys.executable, "-m", "safemodel", *map(str, arguments)]
    process = subprocess.Popen(
        [*command, "--key", files.key], stdout=subprocess.DEVNULL
    )
    if wait and process.wait():
        raise RuntimeError(f"it failed by itself: {arguments}")
    return process


def reset(files: Files, verb: str) -> None:
    """Put the old file in the place of the target."""
    files.state.unlink(missing_ok=True)
    if verb == "rotate in place":
        files.target.write_bytes(files.protected.read_bytes())
    else:
        files.target.write_bytes(b"old")


def command_of(files: Files, verb: str) -> list[object]:
    """Return what is run and killed."""
    if verb == "rotate in place":
        return ["rotate", files.target, "--in-place", "--state", files.state]
    source = files.plain if verb == "protect" else files.protected
    return [verb, source, files.target, "--overwrite"]


def kills(files: Files, verb: str, count: int) -> Counter[str]:
    """Kill a verb that often; return how often what was found."""
    reset(files, verb)
    start = time.monotonic()
    run(files, command_of(files, verb))
    whole_s = time.monotonic() - start
    outcomes: Counter[str] = Counter()
    if found(files, verb) != "the new file":
        outcomes[_BROKEN] += 1
    for _ in range(count):
        reset(files, verb)
        process = run(files, command_of(files, verb), wait=False)
        # Of a cryptographic generator only because it needs no seed.
        time.sleep(whole_s * secrets.randbelow(1_000_000) / 1_000_000)
        process.send_signal(signal.SIGKILL)
        outcomes["killed while it ran"] += process.wait() == -signal.SIGKILL
        outcomes[found(files, verb)] += 1
        parts = [path for path in files.folder.iterdir() if path.name.endswith(SUFFIX)]
        outcomes["a temporary file was left"] += bool(parts)
        for path in parts:
            path.unlink()
        known = {*files, files.state.with_name("seen.lock")}
        if not set(files.folder.iterdir()) <= known:
            outcomes[_BROKEN] += 1
    return outcomes


def found(files: Files, verb: str) -> str:
    """Return what the target is now."""
    key = ProtectionKey.from_file(files.key)
    target = files.target
    if verb == "restore":
        new = same(target, files.plain)
    elif target.stat().st_size < 10:
        new = False
    else:
        state = files.state if verb == "rotate in place" else None
        epoch = verify(target, key=key, state=state).epoch
        if verb == "rotate in place" and epoch == 0:
            return "the old file" if same(target, files.protected) else _BROKEN
        back = files.folder / "back"
        restore(target, back, key=key)
        new = same(back, files.plain)
        back.unlink()
        if not new:
            return _BROKEN
    if new:
        return "the new file"
    return "the old file" if target.read_bytes() == b"old" else _BROKEN


def same(one: Path, other: Path) -> bool:
    """Return whether two files have the same bytes."""
    return one.read_bytes() == other.read_bytes()


if __name__ == "__main__":
    sys.exit(main())
