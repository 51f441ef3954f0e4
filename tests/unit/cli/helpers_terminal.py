"""The command in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[3])
COMMAND = [sys.executable, "-m", "safemodel"]


def in_terminal(
    arguments: list[str],
    cwd: str,
    *,
    columns: int = 100,
    colour: bool = True,
    command: list[str] = COMMAND,
) -> tuple[str, int]:
    """Run the command in a pseudo-terminal; return what appeared and the exit code."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    if not colour:
        environment["NO_COLOR"] = "1"
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=follower,
        stderr=follower,
        cwd=cwd,
        env={**environment, "PYTHONPATH": ROOT},
    )
    os.close(follower)
    seen = bytearray()
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(leader)
    return seen.decode(), process.wait()


def typed_in_terminal(
    arguments: list[str], cwd: str, lines: list[str]
) -> tuple[str, int]:
    """Run the command in a terminal of its own, and type a line at each prompt."""
    process, leader = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execve(  # noqa: S606 - what it runs is this package
            sys.executable, [*COMMAND, *arguments], {**os.environ, "PYTHONPATH": ROOT}
        )
    seen = bytearray()
    left = list(lines)
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
        if left and chunk.endswith(b": "):
            os.write(leader, left.pop(0).encode() + b"\n")
    os.close(leader)
    return seen.decode(), os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
