"""Which repositories of the zoo are for training, and which are kept for the test.

Written, and its result committed, before anything of the detector was tuned. Owners are
ranked by a hash of their name, so that nobody chose, and all repositories of an owner
lie on one side. Two owners who publish the same agents count as one.

Usage: python training/split.py ../shared/zoo/manifest.csv > training/split.csv
"""

from __future__ import annotations

import csv
import sys
from hashlib import sha256
from pathlib import Path

SALT = "safemodel detect, split 1: "
SHARE = 0.4
"""Of the repositories; at least a third has to be kept for the test."""

SAME = {"araffin": "DLR-RM"}
"""Owners whose models come from the same training runs."""


def owner(repo: str) -> str:
    """Return who published a repository, one name for those who share models."""
    name = repo.split("/", maxsplit=1)[0]
    return SAME.get(name, name)


def split(repos: list[str]) -> dict[str, str]:
    """Return "test" or "train" for each repository."""
    owners = sorted(
        {owner(repo) for repo in repos},
        key=lambda name: sha256((SALT + name).encode()).digest(),
    )
    sides: dict[str, str] = {}
    for name in owners:
        kept = sum(side == "test" for side in sides.values())
        side = "test" if kept < SHARE * len(repos) else "train"
        sides.update({repo: side for repo in repos if owner(repo) == name})
    return sides


def main(manifest: str) -> None:
    """Print the two sides as CSV."""
    with Path(manifest).open(newline="", encoding="utf-8") as file:
        repos = sorted({row["repo"] for row in csv.DictReader(file)})
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(("repo", "side"))
    out.writerows(sorted(split(repos).items()))


if __name__ == "__main__":
    main(sys.argv[1])
