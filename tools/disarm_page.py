"""The text and the tables of docs/disarm-results.md; `disarm_results` measures."""

from __future__ import annotations

import os
import platform
from collections import Counter
from typing import Any

import numpy as np
import safetensors
import torch

import safemodel
from tests.stock import NAMES
from tools import compatibility, disarm_scanners, disarm_twins
from tools import disarm_text as text
from tools.disarm_child import POLICIES, Attempt
from tools.disarm_hostile import KINDS, Hostile
from tools.disarm_scanners import TOOLS, VERDICTS, Answers, Said
from tools.disarm_survival import SUFFIXES, Survival

SHOWN = {
    "calls": "calls the canary",
    "touches": "does something else",
    "names": "looks up other names",
    "nothing": "none of these",
}
"""Kind of hostile file → its name on the page."""
_MEGA = 1_000_000


def ticks(words: list[str]) -> str:
    """Return words as code, with commas."""
    return ", ".join(f"`{word}`" for word in words) or "none"


def percent(part: int, whole: int) -> str:
    """Return a rate; only what is whole reads as 100 %.

    >>> percent(999_999, 1_000_000), percent(3, 3)
    ('99.9 %', '100 %')
    """
    if part == whole:
        return "100 %"
    return f"{1000 * part // whole / 10:.1f} %"


def table(head: list[str], rows: list[list[object]]) -> str:
    """Return a table; columns of numbers stand to the right."""
    words = 1 + (head[1] == "tool")
    lines = [head, ["---"] * words + ["---:"] * (len(head) - words), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def benign_table(found: list[Survival]) -> str:
    """Return the table of benign files by container."""
    groups: dict[str, list[Survival]] = {}
    for item in found:
        groups.setdefault(item.container, []).append(item)
    rows = [_benign_row(name, group) for name, group in sorted(groups.items())]
    rows.append(_benign_row("**all**", found))
    head = ["container", "files", "reference is torch's", *(f"`{s}`" for s in SUFFIXES)]
    return table([*head, "tensors", "MB of tensors", "pairs that overlap"], rows)


def _benign_row(name: str, group: list[Survival]) -> list[object]:
    return [
        name,
        len(group),
        sum(item.reference == "torch" for item in group),
        *(sum(suffix not in item.wrong for item in group) for suffix in SUFFIXES),
        sum(item.tensors for item in group),
        f"{sum(item.nbytes for item in group) / _MEGA:.1f}",
        sum(item.shared for item in group),
    ]


def benign_part(found: list[Survival]) -> str:
    """Return the part of the page about benign files."""
    read = [item for item in found if not item.refused]
    wrong = [
        f"- `{item.file}` {suffix}: {what}"
        for item in read
        for suffix, what in item.wrong.items()
    ]
    changed: Counter[str] = Counter()
    for item in read:
        changed.update(item.changed)
    most = [f"`{what}` {count:,}" for what, count in changed.most_common(12)]
    rest = len(changed) - len(most)
    return text.BENIGN.format(
        files=len(read),
        table=benign_table(read),
        failures="\n".join(wrong) or "No file fails.",
        refused=len(found) - len(read),
        changed=", ".join(most) + (f", and {rest} other kinds" if rest > 0 else ""),
    )


def hostile_table(found: list[Hostile]) -> str:
    """Return the table of hostile files by kind."""
    vectors = len(found) - len(disarm_twins.names())
    names = {item.name for item in found[:vectors]}
    rows = []
    for kind in (*KINDS, ""):
        group = [item for item in found if not kind or item.kind == kind]
        row: list[object] = [SHOWN.get(kind, "**all**"), len(group)]
        row.append(sum(item.name in names for item in group))
        for policy in POLICIES:
            tried = [a for item in group for a in item.attempts if a.policy == policy]
            row.append(sum(bool(a.error and not a.wrong) for a in tried))
            row.append(sum(not a.error and not a.wrong for a in tried))
        row.append(sum(not item.wrong for item in group))
        rows.append(row)
    head = ["made to open it, a stock reader", "files", "vectors"]
    head += [f"{policy}: {end}" for policy in POLICIES for end in ("refused", "proven")]
    return table([*head, "disarmed"], rows)


def hostile_part(found: list[Hostile]) -> str:
    """Return the part of the page about hostile files."""
    twins = len(disarm_twins.names())
    errors = Counter(
        attempt.error for item in found for attempt in item.attempts if attempt.error
    )
    wrong = [f"- `{item.name}` {what}" for item in found for what in item.wrong]
    return text.HOSTILE.format(
        vectors=len(found) - twins,
        twins=twins,
        hosts=len(disarm_twins.EVERY),
        payloads=len(disarm_twins.PAYLOADS),
        places=len(disarm_twins.PLACES),
        containers=len(disarm_twins.CONTAINERS),
        names=len(NAMES),
        table=hostile_table(found),
        failures="\n".join(wrong) or "No file fails.",
        errors=", ".join(f"`{name}` {n:,}" for name, n in errors.most_common()),
    )


def counted(answers: list[Answers], tool: str) -> list[object]:
    """Return how often a tool gave each verdict."""
    counts = Counter(answer[tool] for answer in answers)
    if set(counts) - set(VERDICTS):
        raise ValueError(f"verdicts that are none: {counts}")
    return [counts[verdict] for verdict in VERDICTS]


def scanner_tables(
    found: list[Hostile], benign: dict[str, Answers], said: dict[str, Said]
) -> tuple[str, str]:
    """Return the tables of what scanners say of benign and of hostile files."""
    first = [[tool, *counted(list(benign.values()), tool)] for tool in TOOLS]
    rows: list[list[object]] = []
    for kind in KINDS:
        names = [item.name for item in found if item.kind == kind]
        title = f"{SHOWN[kind]} ({len(names)})"
        for tool in TOOLS:
            given = [said[name].dangerous for name in names]
            rows.append([title, tool, *counted(given, tool)])
        if kind == "calls":
            for tool in TOOLS:
                given = [said[name].canary for name in names]
                rows.append([f"the same, with the canary ({len(names)})", tool,
                             *counted(given, tool)])  # fmt: skip
    return (
        table(["tool", *VERDICTS], first),
        table(["a stock reader", "tool", *VERDICTS], rows),
    )


def missed(found: list[Hostile], said: dict[str, Said]) -> str:
    """Return lists of the armed files that each tool does not see."""
    calls = [item.name for item in found if item.kind == "calls"]
    lines = []
    for tool in TOOLS:
        for verdict in ("clean", "not scanned"):
            names = [n for n in calls if said[n].dangerous[tool] == verdict]
            if names:
                shown = ", ".join(_shortened(names, calls))
                lines.append(f"- **{tool}**, {verdict}, {len(names)}: {shown}.")
    return "\n".join(lines)


def _shortened(names: list[str], calls: list[str]) -> list[str]:
    """Return names as code; where all twins of a host are there, the host stands."""
    plan = disarm_twins.plan()
    shown = [f"`{name}`" for name in names if name not in plan]
    for host in disarm_twins.EVERY:
        of_host = [name for name in calls if name in plan and plan[name][0] == host]
        there = [name for name in of_host if name in names]
        if there and there == of_host:
            shown.append(f"all {len(there)} twins of `{host}`")
        else:
            shown += [f"`{name}`" for name in there]
    return shown


def files_part(found: list[Hostile]) -> str:
    """Return the names of all hostile files, by kind."""
    plan = disarm_twins.plan()
    lists = []
    for kind in KINDS:
        names = [item.name for item in found if item.kind == kind]
        twins = sum(name in plan for name in names)
        shown = ticks([name for name in names if name not in plan])
        more = f"; and {twins} twins" if twins else ""
        lists.append(f"**{SHOWN[kind].capitalize()}** ({len(names)}): {shown}{more}.")
    return text.FILES.format(
        lists="\n\n".join(lists),
        example=next(iter(plan)),
        hosts=ticks(list(disarm_twins.EVERY)),
        payloads=ticks(list(disarm_twins.PAYLOADS)),
        places=ticks(list(disarm_twins.PLACES)),
        containers=ticks(list(disarm_twins.CONTAINERS)),
    )


def head(survival: list[Survival], found: list[Hostile]) -> str:
    """Return the start of the page."""
    read = [item for item in survival if not item.refused]
    survived = sum(not item.wrong for item in read)
    disarmed = sum(not item.wrong for item in found)
    outputs = [a for item in found for a in item.attempts if not a.error]
    kinds = Counter(item.kind for item in found)
    pins = disarm_scanners.versions()
    return text.HEAD.format(
        survived=survived,
        benign=len(read),
        survival=percent(survived, len(read)),
        disarmed=disarmed,
        hostile=len(found),
        rate=percent(disarmed, len(found)),
        fire=kinds["calls"],
        touch=kinds["touches"],
        after=sum(bool(a.wrong) for a in outputs),
        outputs=f"{len(outputs):,}",
        ours=safemodel.__version__,
        torch=compatibility.version(torch.__version__),
        numpy=compatibility.version(np.__version__),
        safetensors=safetensors.__version__,
        python=platform.python_version(),
        scanners=", ".join(f"{name} {pin}" for name, pin in sorted(pins.items())),
        machine=f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores",
    )


def scanner_part(
    found: list[Hostile], benign: dict[str, Answers], said: dict[str, Said]
) -> str:
    """Return the part of the page about scanners."""
    first, second = scanner_tables(found, benign, said)
    return text.SCANNERS.format(
        benign=len(benign),
        benign_table=first,
        hostile_table=second,
        fire=sum(item.kind == "calls" for item in found),
        missed=missed(found, said),
    )


def page(measured: dict[str, Any]) -> str:
    """Return the page from what the stages measured."""
    survival = [Survival(**item) for item in measured["benign"]]
    found = [
        Hostile(item["name"], item["kind"], [Attempt(**a) for a in item["attempts"]])
        for item in measured["hostile"]
    ]
    benign = measured["scanners"]["benign"]
    said = {n: Said(**both) for n, both in measured["scanners"]["hostile"].items()}
    return "".join(
        [
            head(survival, found),
            benign_part(survival),
            hostile_part(found),
            scanner_part(found, benign, said),
            files_part(found),
        ]
    )
