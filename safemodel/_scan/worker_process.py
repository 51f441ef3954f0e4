"""A fresh interpreter that answers lines of JSON with lines of JSON.

No fork (the caller may have threads and gigabytes), and no import of the caller's main
module. A worker ends where nobody is left to answer, and a file that takes one down is
seen by whoever reads the next line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# -I: neither the current folder nor the environment decides what is imported.
# A worker whose caller has been killed finds nobody to answer, and ends without a word.
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGPIPE, signal.SIG_DFL);"
    " sys.path.insert(0, sys.argv[1]);"
    " from {module} import serve; serve(sys.stdin, sys.stdout)"
)
_ROOT = str(Path(__file__).resolve().parents[2])


class WorkerProcess:
    """One process that runs ``serve(stdin, stdout)`` of a module of this package."""

    def __init__(self, module: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, this package
            [sys.executable, "-I", "-c", _PROGRAM.format(module=module), _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            process_group=0,  # Ctrl-C in a terminal is for the caller, which ends it
        )

    def ask(self, request: object) -> None:
        """Write a line."""
        stdin = self._process.stdin
        if stdin is not None:
            try:
                stdin.write(json.dumps(request) + "\n")
                stdin.flush()
            except BrokenPipeError:
                # It has died; reading its answer says so.
                return

    def answer(self) -> Any:
        """Return what the next line holds; None where the process dies."""
        stdout = self._process.stdout
        line = stdout.readline() if stdout is not None else ""
        return json.loads(line) if line.endswith("\n") else None

    def kill(self) -> None:
        """End the process; whoever reads its answers finds that it has ended."""
        self._process.kill()

    def close(self) -> None:
        """End the process, and wait for that."""
        self._process.kill()
        self._process.communicate()
