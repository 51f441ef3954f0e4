"""Write docs/clients.md: real clients under legacy mode, case by case.

Run ``make test-clients``, which makes the environment in ``.cache/clients`` first. The
cases are the tests in ``clients/``; each one writes down what it saw, and the page is
made of that. A case that fails stands in it as one that fails.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "clients.md"
START, END = "<!-- measured -->", "<!-- /measured -->"
COLUMNS = ("case", "`patched(...)`", "loads", "hostile twin", "the same, unpatched")


def run() -> tuple[int, list[dict[str, str]], float]:
    """Run the cases; return pytest's exit code, what they saw, and the minutes."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.jsonl")
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-c", "clients/pytest.ini",
             "--rootdir", "clients", "clients"],
            cwd=ROOT, check=False,
            env={**os.environ, "SAFEMODEL_CLIENTS_RESULTS": str(results),
                 "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        minutes = (time.monotonic() - start) / 60
        lines = results.read_text("utf-8").splitlines() if results.exists() else []
    return done.returncode, [json.loads(line) for line in lines], minutes


def table(rows: list[dict[str, str]], minutes: float) -> str:
    """Return the part of the page that is measured."""
    failed = [row for row in rows if row["failed"]]
    cases, clients = len(rows), len({row["client"] for row in rows})
    summary = (
        f"{cases - len(failed)} of {cases} cases of {clients} clients hold, with torch"
        f" {version('torch').split('+')[0]} and Python {platform.python_version()}; the"
        f" run took {minutes:.1f} minutes."
    )
    parts = [summary]
    by_client: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        by_client.setdefault((row["client"], row["version"]), []).append(row)
    for (client, release), its in by_client.items():
        parts += [f"### {client} {release}", _lines(its)]
    return "\n\n".join(parts)


def _lines(rows: list[dict[str, str]]) -> str:
    """Return the table of one client, and its notes."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    notes = []
    for row in rows:
        case = row["what"]
        if row["note"]:
            notes.append(row["note"])
            case += f" ({len(notes)})"
        settings = f"`{row['settings']}`" if row["settings"] else ""
        if row["failed"]:
            seen = [f"**fails**: `{row['failed']}`", "not known", "not known"]
        else:
            seen = [row["loaded"], row["twin"], row["without"]]
        lines.append("| " + " | ".join([case, settings, *seen]) + " |")
    numbered = [f"{number}. {note}." for number, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *numbered] if numbered else lines)


def main() -> int:
    """Run the cases and write the page."""
    code, rows, minutes = run()
    if not rows:
        print("no case was run: the page stays as it is")
        return code or 1
    text = PAGE.read_text("utf-8")
    made = f"{START}\n\n{table(rows, minutes)}\n\n{END}"
    pattern = f"{re.escape(START)}.*{re.escape(END)}"
    PAGE.write_text(re.sub(pattern, lambda _: made, text, flags=re.DOTALL), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
