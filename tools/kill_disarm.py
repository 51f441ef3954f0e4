"""Kill ``safemodel disarm`` at random moments, and look at what it leaves.

``python tools/kill_disarm.py --count 50 --mebibytes 1024`` (`make kill`) makes a model
of that size and replaces another model by it, again and again, each time killed
(SIGKILL) at a random moment between the start and the end of an undisturbed run. The
target has to be the old file or the new one, whole, after every one of them.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from safemodel._rewrite.output import SUFFIX

_TENSOR = 4 << 20  # bytes


def main() -> int:
    """Run; return 1 if a target was neither the old file nor the new one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--mebibytes", type=int, default=1024)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        outcomes = kills(Path(name), options.count, options.mebibytes << 20)
    for outcome, times in sorted(outcomes.items()):
        sys.stdout.write(f"{times:4} x {outcome}\n")
    return 1 if outcomes["neither: BROKEN"] else 0


def kills(folder: Path, count: int, size: int) -> Counter[str]:
    """Kill that often; return how often what was found."""
    source, target = folder / "in.pt", folder / "out.safetensors"
    torch.save(
        {f"w{i}": torch.randn(_TENSOR // 4) for i in range(max(1, size // _TENSOR))},
        source,
    )
    command = [
        sys.executable, "-m", "safemodel", "disarm", source, target, "--overwrite",
    ]  # fmt: skip
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    whole_s = time.monotonic() - start
    new = _digest(target)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        target.write_bytes(b"old")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        # Of a cryptographic generator only because it needs no seed.
        time.sleep(whole_s * secrets.randbelow(1_000_000) / 1_000_000)
        process.send_signal(signal.SIGKILL)
        killed = process.wait() == -signal.SIGKILL
        found = _digest(target)
        kind = {_digest_of(b"old"): "the old file", new: "the new file"}.get(found)
        outcomes[kind or "neither: BROKEN"] += 1
        outcomes["killed while it ran"] += killed
        parts = [path for path in folder.iterdir() if path.name.endswith(SUFFIX)]
        outcomes["a temporary file was left"] += bool(parts)
        for path in parts:
            path.unlink()
        if set(folder.iterdir()) != {source, target}:
            outcomes["neither: BROKEN"] += 1
    return outcomes


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
