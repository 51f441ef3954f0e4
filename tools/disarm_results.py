"""Write docs/disarm-results.md: what survives `disarm`, what does not, and scanners.

Run ``make results`` (half an hour). It needs the model files beside the repository, in
``../shared/zoo``, and fetches three scanners into an environment of their own. With
names of stages (``benign``, ``hostile``, ``scanners``) only these are measured again;
the others are what they last were, from ``.cache/disarm-results``. With ``page``
nothing is measured.

No file of the zoo is ever opened by anything that runs what a file names. Hostile files
are, in processes under an audit hook that refuses what would leave them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools import compatibility, disarm_scanners
from tools.disarm_hostile import measure_all
from tools.disarm_page import page
from tools.disarm_survival import Survival, examine

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = ROOT / "docs" / "disarm-results.md"
CACHE = ROOT / ".cache" / "disarm-results"


def survive(folder: Path) -> list[Survival]:
    """Disarm and compare every file of the zoo."""
    found = []
    for row in compatibility.manifest():
        path = compatibility.ZOO / row["file"]
        name = row["file"].removeprefix("files/")
        found.append(examine(path, name, row["container"], folder))
        for suffix, what in found[-1].wrong.items():
            print(f"{name} {suffix}: {what}", file=sys.stderr, flush=True)
    return found


def scan(folder: Path) -> dict[str, object]:
    """Ask the scanners about all files."""
    rows = compatibility.manifest()
    read = [row for row in rows if row["container"] not in compatibility.NO_MODEL]
    paths = [compatibility.ZOO / row["file"] for row in read]
    answers = disarm_scanners.ask_all(paths)
    said = disarm_scanners.of_hostile(folder)
    return {
        "benign": dict(zip((row["file"] for row in read), answers, strict=True)),
        "hostile": {name: vars(both) for name, both in said.items()},
    }


STAGES: dict[str, Callable[[Path], object]] = {
    "benign": lambda folder: [vars(item) for item in survive(folder)],
    "hostile": lambda folder: [asdict(item) for item in measure_all(folder)],
    "scanners": scan,
}


def main(stages: list[str]) -> int:
    """Measure and write the page."""
    warnings.simplefilter("ignore")
    if not (compatibility.ZOO / "manifest.csv").is_file():
        print("the zoo of real model files is not beside this repository: nothing done")
        return 0
    if not disarm_scanners.PYTHON.exists():
        print("no scanners in .cache/scanners: run `make results`")
        return 1
    CACHE.mkdir(parents=True, exist_ok=True)
    for stage in [] if stages == ["page"] else stages or STAGES:
        print(f"measuring: {stage}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            found = STAGES[stage](Path(folder))
        (CACHE / f"{stage}.json").write_text(json.dumps(found), encoding="utf-8")
    kept = {stage: CACHE / f"{stage}.json" for stage in STAGES}
    missing = [stage for stage, path in kept.items() if not path.exists()]
    if missing:
        print(f"not measured yet: {', '.join(missing)}")
        return 1
    measured = {
        stage: json.loads(path.read_text("utf-8")) for stage, path in kept.items()
    }
    PAGE.write_text(page(measured), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
