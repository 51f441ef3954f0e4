"""A process that answers one line of JSON with another, for as long as it is needed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]


class Lines:
    """The process; a context manager."""

    command: tuple[str | Path, ...] = ()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        if self._read() != "ready":
            raise RuntimeError(f"it did not start: {self.command}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, request: object) -> Any:
        """Send a request; return the answer."""
        if self._process.stdin is None:
            raise RuntimeError("there is no process")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        if self._process.stdout is None:
            raise RuntimeError("there is no process")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended: {self.command}")
        return json.loads(line)
