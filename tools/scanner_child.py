"""Ask other scanners about files, each question in a process of its own.

Started by `disarm_scanners.py` with the Python of ``.cache/scanners``; needs nothing of
this package. Reads one path a line, prints one JSON answer a line: tool → verdict.
"""

from __future__ import annotations

import io
import json
import logging
import os
import resource
import signal
import sys
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import fickling
import fickling.analysis
import fickling.fickle
import fickling.loader
import fickling.ml
import modelscan.modelscan
import picklescan.scanner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_SECONDS = 10
MAX_MORE_BYTES = 4 << 30


def ask_picklescan(path: str) -> str:
    """Return what `picklescan.scanner.scan_file_path` finds."""
    found = picklescan.scanner.scan_file_path(path)
    if found.issues_count:
        return "flagged"
    if found.scan_err:
        return "error"
    if found.suspicious_count:
        return "suspicious"
    return "clean" if found.scanned_files else "not scanned"


def ask_fickling(path: str) -> str:
    """Return what fickling's functions for a file and for a zip archive find.

    Which of them is asked goes by content, as its command line does for a model hub.
    """
    if zipfile.is_zipfile(path):
        results = list(fickling.scan_zip_archive(path, graceful=True).values())
    else:
        results = [fickling.scan_file(path, graceful=True)]
    safe = fickling.analysis.Severity.LIKELY_SAFE
    if any(part.severity > safe for result in results for part in result.results):
        return "flagged"
    if any(result.errors for result in results):
        return "error"
    read = any(result.results for result in results)
    return "clean" if read else "not scanned"


def ask_fickling_ml(path: str) -> str:
    """Return what fickling's list of names that machine learning needs finds.

    The same files and members as above, in its words `MLAllowlist`; nothing is loaded.
    """
    analyzer = fickling.analysis.Analyzer([fickling.ml.MLAllowlist()])
    safe = fickling.analysis.Severity.LIKELY_SAFE
    parts = list(_pickled_parts(path))
    failed, read = False, False
    for part in parts:
        try:
            stack = fickling.fickle.StackedPickle.load(
                io.BytesIO(part), fail_on_decode_error=False
            )
            found = [analyzer.analyze(pickled) for pickled in stack]
        # As its own functions do: an error of a part is no end of the scan.
        except Exception:  # noqa: BLE001
            failed = True
            continue
        read = read or bool(found)
        if any(result.severity > safe for result in found):
            return "flagged"
    if failed:
        return "error"
    return "clean" if read else "not scanned"


def _pickled_parts(path: str) -> Iterator[bytes]:
    """Yield what fickling would scan of a file."""
    if not zipfile.is_zipfile(path):
        yield Path(path).read_bytes()
        return
    with fickling.loader.RelaxedZipFile(path) as archive:
        for info in archive.infolist():
            if Path(info.filename).suffix.lower() in {".pkl", ".pickle", ".bin"}:
                yield archive.read(info)


def ask_modelscan(path: str) -> str:
    """Return what `modelscan.modelscan.ModelScan` finds."""
    scan = modelscan.modelscan.ModelScan()
    found = scan.scan(path)
    if found["summary"]["total_issues"]:
        return "flagged"
    if found["errors"]:
        return "error"
    return "clean" if scan.scanned else "not scanned"


TOOLS: dict[str, Callable[[str], str]] = {
    "picklescan": ask_picklescan,
    "fickling": ask_fickling,
    "fickling, ML list": ask_fickling_ml,
    "modelscan": ask_modelscan,
}


def apart(ask: Callable[[str], str], path: str) -> str:
    """Ask in a fork, with a limit on time and on memory."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        space = used * resource.getpagesize() + MAX_MORE_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            answer = ask(path)
        # Whatever it raises is its answer.
        except BaseException as error:  # noqa: BLE001
            answer = f"fails: {type(error).__name__}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGPROF:
        return "fails: no end"
    return answer if not code else f"fails: exit {code}"


def main() -> None:
    """Answer until the input ends."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for ask in TOOLS.values():  # what is imported late is imported once
        ask(__file__)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        path = json.loads(line)
        answers = {tool: apart(ask, path) for tool, ask in TOOLS.items()}
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main()
