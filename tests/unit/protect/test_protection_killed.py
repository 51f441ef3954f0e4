"""Processes that end at any moment leave the old file or the new one."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from safemodel import ProtectionKey, protect, restore, rotate, verify

KEY = ProtectionKey(bytes(range(32)))

PROGRAM = """
import sys
from safemodel import ProtectionKey, protect, restore, rotate
key = ProtectionKey(bytes(range(32)))
verb, source, target = sys.argv[1:]
call = {"protect": protect, "restore": restore, "rotate": rotate}[verb]
print("ready", flush=True)
while True:
    call(source, target, key=key, overwrite=True)
    print("done", flush=True)
"""


@pytest.mark.parametrize("verb", ["protect", "restore", "rotate"])
def test_a_killed_process_leaves_old_or_new(tmp_path, verb, rand):
    """Killed between two files, a random time after the first; nothing is half there.

    The target is rotated in place; others are written again and again.
    """
    plain, target = tmp_path / "plain.safetensors", tmp_path / "target.safetensors"
    tensors = {"a": torch.randn(300, 200), "b": torch.arange(9)}
    safetensors.torch.save_file(tensors, plain)
    source = tmp_path / "source.safetensors"
    protect(plain, source, key=KEY)
    target.write_bytes(source.read_bytes())
    given = {"protect": plain, "restore": source, "rotate": target}[verb]

    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, verb, str(given), str(target)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert process.stdout.readline() == "done\n"
    started = time.monotonic()
    process.stdout.readline()
    # Some time within one more call, as long as that takes.
    time.sleep(rand.random() * (time.monotonic() - started))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    check(verb, plain, target)
    hidden = {path.name for path in tmp_path.iterdir()} - {
        "plain.safetensors",
        "target.safetensors",
        "source.safetensors",
    }
    assert all(name.startswith(".") for name in hidden)
    assert len(hidden) <= 1


def check(verb: str, plain: Path, target: Path) -> None:
    """Assert that the target is whole."""
    if verb == "restore":
        assert target.read_bytes() == plain.read_bytes()
        return
    report = verify(target, key=KEY)
    assert (report.epoch > 0) == (verb == "rotate")
    back = target.with_name("plain.safetensors").with_suffix(".back.safetensors")
    restore(target, back, key=KEY)
    assert back.read_bytes() == plain.read_bytes()
    back.unlink()
    rotate(target, target, key=KEY, overwrite=True)
