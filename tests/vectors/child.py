"""Loads files in processes of their own, and measures their peak memory.

Started by `test_vectors.py`. Reads one JSON request a line, forks (so that torch is
imported once), loads the file in the fork and prints one JSON answer a line. What
would end the interpreter ends the fork only; a hang ends by a timer.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vectors.outcome import load_outcome

HANG_S = 60


def _peak_kib() -> int:
    """Return the peak memory of this process."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _load(request: dict[str, object]) -> dict[str, object]:
    """Load one file in this process; return how it ended and what it took."""
    before = _peak_kib()
    path = Path(str(request["path"]))
    outcome = load_outcome(path, opaque=bool(request["opaque"]))
    answer = asdict(outcome)
    answer["grown_bytes"] = (_peak_kib() - before) * 1024
    return answer


def _fork(request: dict[str, object]) -> str:
    """Return the answer of a forked process, or how it died."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        # Processor time, so that a busy machine is no hang.
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        with os.fdopen(writer, "w") as pipe:
            pipe.write(json.dumps(_load(request)))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        return json.dumps({"died": code, "output": answer})
    return answer


def main() -> None:
    """Answer requests until the input ends."""
    # Everything that is imported lazily is imported before the first fork.
    load_outcome(Path(sys.argv[1]), opaque=False)
    for line in sys.stdin:
        print(_fork(json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
