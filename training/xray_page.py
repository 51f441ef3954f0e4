"""Write docs/reproduction.md from the rows of all detectors, beside what was published.

Published values are facts from the authors' result files, by X; see the page.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean, median, stdev
from typing import TypeAlias

Rows: TypeAlias = list[dict[str, str]]

XS = range(1, 24)

SMALL_OSL = """.502 .516 .592 .752 .832 .966 .958 .988 .932 .976 .952 .990
.970 .978 .960 .968 .970 .988 .952 .968 .978 .974 .964"""
SMALL_SRNET = ".500 .500 .530 .630 .720" + " 1.000" * 18
LARGE_OSL = """.499 .495 .490 .499 .544 .573 .644 .689 .689 .724 .771 .827
.847 .865 .889 .898 .893 .893 .888 .874 .883 .955 .964"""
LARGE_SRNET = """.496 .479 .471 .475 .564 .679 .814 .889 .893 .911 .929 .964 .936 .964
.996 1.000 1.000 1.000 1.000 1.000 1.000 1.000 1.000"""
SCZ_OSL = """.497 .495 .494 .471 .491 .483 .534 .985 .903 .896 .883 .975
.950 .911 .951 .996 .980 .960 .945 .989 .981 .984 .993"""

SOURCE = Path(__file__).with_name("xray_page.md")


def page(detectors: Path) -> str:
    """Return the page."""
    with detectors.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    parts = {
        "small": _table(
            rows,
            ("conv A", "OSL", SMALL_OSL, "osl", "osl active"),
            ("conv A", "SRNet", SMALL_SRNET, "srnet", "srnet active"),
        ),
        "large": _table(
            rows,
            ("other B", "OSL", LARGE_OSL, "osl", "osl active"),
            ("other B", "SRNet", LARGE_SRNET, "srnet", "srnet active"),
        ),
        "tiny": _table(rows, ("tiny A", "OSL", SCZ_OSL, "tiny osl", "tiny osl active")),
        "random": _random(rows),
        "random_range": _random_range(rows),
        "spread": _spread(rows),
        "weighted": _weighted(rows),
        "training": _training(rows),
        "counts": _counts(rows),
    }
    text = SOURCE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{name}}}", part)
    return text


def _chosen(rows: Rows, setup: str, test: str, classifier: str = "centroid") -> Rows:
    """Return the rows of one setup, test set and classifier."""
    wanted = (setup, test, classifier)
    return [r for r in rows if (r["setup"], r["test"], r["classifier"]) == wanted]


def _right(row: dict[str, str], x: int) -> float:
    """Return the balanced accuracy of a detector at one X."""
    return (float(row["clean_right"]) + float(row[f"recall_{x}"])) / 2


def _shown(numbers: list[float]) -> str:
    """Return a mean, and the standard deviation where there are several."""
    if not numbers:
        return ""
    spread = f" ± {stdev(numbers):.3f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.3f}{spread}"


def _lines(head: list[str], body: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---:"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _table(rows: Rows, *columns: tuple[str, str, str, str, str]) -> str:
    """Return balanced accuracy by X: published, ours, 1-NN, and all switches on."""
    head, body = ["X"], [[str(x)] for x in XS]
    for test, name, published, setup, active in columns:
        head += [f"{name} published", "ours", "clean / attacked", "1-NN", "active"]
        for x, line, value in zip(XS, body, published.split(), strict=True):
            own, near, on = (
                [r for r in found if int(r["x_hat"]) == x]
                for found in (
                    _chosen(rows, setup, test),
                    _chosen(rows, setup, test, "nearest"),
                    _chosen(rows, active, test),
                )
            )
            clean = mean(float(row["clean_right"]) for row in own)
            attacked = mean(float(row[f"recall_{x}"]) for row in own)
            line += [f"{float(value):.3f}", _shown([_right(row, x) for row in own])]
            line += [f"{clean:.2f} / {attacked:.2f}"]
            line += [f"{mean(_right(row, x) for row in near):.3f}"]
            line += [f"{mean(_right(row, x) for row in on):.3f}" if on else "–"]
    return _lines(head, body)


def _random(rows: Rows) -> str:
    """Return what the same detectors say of random bytes."""
    body = []
    for x in (1, 2, 4, 6, 8, 12, 16, 20, 23):
        line = [str(x)]
        for setup in ("osl", "osl active"):
            for test in ("conv A", "conv random"):
                found = [
                    row for row in _chosen(rows, setup, test) if int(row["x_hat"]) == x
                ]
                line.append(f"{mean(_right(row, x) for row in found):.3f}")
        body.append(line)
    head = ["X", "library", "random", "library, active", "random, active"]
    return _lines(head, body)


def _random_range(rows: Rows) -> str:
    """Return the least and the highest mean over X, of random bytes."""
    means = [
        mean(_right(row, x) for row in found)
        for classifier in ("centroid", "nearest")
        for x in XS
        if (
            found := [
                row
                for row in _chosen(rows, "osl", "conv random", classifier)
                if int(row["x_hat"]) == x
            ]
        )
    ]
    return f"{min(means):.2f} to {max(means):.2f}"


def _spread(rows: Rows) -> str:
    """Return the population of detectors on spread spectrum, and the best of each."""
    body = []
    names = ("osl", "srnet", "osl active", "srnet active")
    for setup in names:
        for classifier in ("centroid", "nearest"):
            found = _chosen(rows, setup, "spread", classifier)
            right = [_right(row, 1) for row in found]
            body.append(
                [
                    f"{setup}, {classifier}",
                    str(len(right)),
                    f"{mean(right):.3f}",
                    f"{mean(float(row['clean_right']) for row in found):.3f}",
                    f"{mean(float(row['recall_1']) for row in found):.3f}",
                    f"{max(right):.3f}",
                    f"{mean(value > 0.6 for value in right):.1%}",
                ]
            )
    head = ["detectors", "how many", "mean", "clean", "attacked", "best", "over 0.6"]
    return _lines(head, body)


def weighted(row: dict[str, str]) -> float:
    """Return the published metric over all X: low X weigh most."""
    recall = sum((24 - x) * float(row[f"recall_{x}"]) for x in XS) / 276
    return (float(row["clean_right"]) + recall) / 2


def _weighted(rows: Rows) -> str:
    """Return the best mean of the weighted metric, over X of training."""
    body = []
    cases = (
        ("OSL, small → small", "osl", "conv A", ".810 (1-NN, 5)"),
        ("SRNet, small → small", "srnet", "conv A", ".856 (1-NN, 4)"),
        ("OSL, small → large", "osl", "other B", ".688 (6)"),
        ("SRNet, small → large", "srnet", "other B", ".751 (6)"),
    )
    for name, setup, test, published in cases:
        best = max(
            (mean(values), classifier, x)
            for classifier in ("centroid", "nearest")
            for x, values in _by_x(_chosen(rows, setup, test, classifier)).items()
        )
        value, classifier, x = best
        body.append([name, published, f"{value:.3f} ({classifier}, {x})"])
    return _lines(["best mean", "published", "ours"], body)


def _by_x(rows: Rows) -> dict[int, list[float]]:
    """Return the weighted metric of each detector, by X of training."""
    values = defaultdict(list)
    for row in rows:
        values[int(row["x_hat"])].append(weighted(row))
    return values


def _training(rows: Rows) -> str:
    """Return how training ended, and how many dimensions embeddings have."""
    body = []
    for setup in ("osl", "srnet", "tiny osl", "osl active", "tiny osl active"):
        test = "tiny A" if setup.startswith("tiny") else "conv A"
        found = _chosen(rows, setup, test)
        epochs = [int(row["epochs"]) for row in found]
        rank = [float(row["rank_one"]) for row in found]
        body.append(
            [
                setup,
                str(len(found)),
                f"{mean(e == 1 for e in epochs):.0%}",
                f"{mean(e == 100 for e in epochs):.0%}",
                f"{median(rank):.4f}, {min(rank):.4f}",
            ]
        )
    head = ["detectors", "how many", "1 epoch", "100 epochs", "first component"]
    return _lines(head, body)


def _counts(rows: Rows) -> str:
    """Return how many detectors of each setup there are."""
    body = []
    for setup in dict.fromkeys(row["setup"] for row in rows):
        found = [row for row in rows if row["setup"] == setup]
        detectors = {(row["x_hat"], row["run"]) for row in found}
        xs = sorted({int(x) for x, _ in detectors})
        tests = {row["test"]: row["clean"] for row in found}
        shown = ", ".join(f"{name} {count} + {count}" for name, count in tests.items())
        body.append([setup, f"{len(detectors)}, X = {xs[0]} to {xs[-1]}", shown])
    return _lines(["detectors", "how many", "tested on (clean + attacked)"], body)
