"""Disarm hostile files, each in a fork: a crash or a hang is one answer, not the end.

Started by `disarm_hostile`, in a process of its own: threads that a library keeps are
not there in a fork. Reads one JSON request a line, prints one JSON answer a line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import safemodel
from safemodel.testing import CANARY

SUFFIXES = (".pt", ".safetensors", ".npz")
POLICIES = {"SALVAGE": safemodel.SALVAGE, "STRICT": safemodel.STRICT}
MAX_SECONDS = 120


@dataclass
class Attempt:
    """One file to one format under one policy.

    Attributes:
        policy: Name of the policy.
        suffix: Of the output.
        error: Class of the error; empty if there is an output.
        wrong: What is wrong about how it ended; empty if nothing.
    """

    policy: str
    suffix: str
    error: str
    wrong: str


def target(folder: Path, policy: str, suffix: str) -> Path:
    """Return where an output goes: each into a folder of its own."""
    return folder / f"{policy}{suffix}.out" / f"out{suffix}"


def attempt(path: Path, folder: Path, policy: str, suffix: str) -> Attempt:
    """Disarm a file once; say how it ended."""
    out = target(folder, policy, suffix)
    out.parent.mkdir()
    found = Attempt(policy, suffix, "", "")
    try:
        safemodel.disarm(path, out, policy=POLICIES[policy])
    except safemodel.SafeModelError as error:
        found.error = type(error).__name__
        if list(out.parent.iterdir()):
            found.wrong = "refused, and left a file"
    # Whatever else escapes is a fault, and the page names it.
    except Exception as error:  # noqa: BLE001
        found.error = type(error).__name__
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}:{at.lineno}"
        found.wrong = f"{found.error}: {error} ({where})"
    else:
        if [item.name for item in out.parent.iterdir()] != [out.name]:
            found.wrong = "another file beside the output"
    if CANARY.trips:
        found.wrong = "the canary was called while disarming"
    return found


def attempts(path: Path, folder: Path) -> list[Attempt]:
    """Disarm a file to every format under every policy."""
    CANARY.reset()
    return [
        attempt(path, folder, policy, suffix)
        for policy in POLICIES
        for suffix in SUFFIXES
    ]


def in_fork(path: Path, folder: Path, env: str) -> list[Attempt]:
    """Do so in a fork, with variables of the environment set."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        for setting in env.split():
            name, _, value = setting.partition("=")
            os.environ[name] = value
        # Processor time, so that a busy machine is no hang.
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            made = attempts(path, folder)
        except BaseException:  # noqa: BLE001 - the exit code says so
            traceback.print_exc()
            os._exit(1)
        with os.fdopen(writer, "w") as pipe:
            pipe.write(json.dumps([vars(item) for item in made]))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        code = os.waitstatus_to_exitcode(status)
        return [Attempt("", "", "", f"the process ended with {code}")]
    return [Attempt(**item) for item in json.loads(answer)]


def main() -> None:
    """Answer until the input ends."""
    with tempfile.TemporaryDirectory() as name:  # what is imported late is imported
        for suffix in SUFFIXES:
            safemodel.disarm(b"\x80\x02]K\x01a.", Path(name, f"warm{suffix}"))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        path, folder, env = json.loads(line)
        made = in_fork(Path(path), Path(folder), env)
        print(json.dumps([vars(item) for item in made]), flush=True)


if __name__ == "__main__":
    main()
