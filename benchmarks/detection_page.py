"""Write docs/detection-results.md from the rows of `bench_detect`, beside targets.

Published figures are facts from the authors' result files, see docs/reproduction.md.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detect_figures import Figure, Row, balanced, share, suspicious
from tables import verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOURCE = Path(__file__).with_name("detection_page.md")
LARGE = 3_000_000


class Line(NamedTuple):
    """A line of the table.

    Attributes:
        what: The case.
        published: What was published; "" if nothing was.
        figure: Ours; None where nothing was measured.
        must: What is required; None for nothing.
        aim: What is hoped for.
        less: Whether less is better.
    """

    what: str
    published: str
    figure: Figure | None
    must: float | None = None
    aim: float | None = None
    less: bool = False

    def reaches(self, target: float | None) -> bool:
        """Return whether the figure is as good as a target."""
        if target is None or self.figure is None:
            return False
        value = round(self.figure.value, 3)
        return value <= target if self.less else value >= target

    def verdict(self) -> str:
        """Return the best target reached, or that the required one was missed."""
        if self.figure is None:
            return "not measured"
        return verdict(self.reaches, must=self.must, aim=self.aim)

    def markdown(self) -> str:
        """Return it as a line of Markdown."""
        sign = "≤" if self.less else "≥"
        targets = ["" if one is None else f"{sign} {one:g}"
                   for one in (self.must, self.aim)]  # fmt: skip
        figure, files = "", ""
        if self.figure is not None:
            figure, files = (
                str(self.figure),
                f"{self.figure.files} ({self.figure.groups})",
            )
        cells = (self.what, self.published or "no result", figure, *targets,
                 self.verdict(), files)  # fmt: skip
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| case | published | ours, 95 % interval | must | aim | reached | files, groups |",
    "|---|---|---|---|---|---|---|",
)


def page(path: Path) -> str:
    """Return the page for a file of rows."""
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = list(csv.DictReader(file))
    parts = {
        "main": _table(main_lines(rows)),
        "found": _found(rows),
        "theory": _theory(rows),
        "blind": _blind(rows),
        "named": _named(rows),
        "adaptive": _adaptive(rows),
        "false": _false(rows),
        "counts": _counts(rows),
    }
    text = SOURCE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"{{{name}}}", part)
    return text


def _table(lines: Iterable[Line]) -> str:
    return "\n".join((*HEAD, *(line.markdown() for line in lines)))


def of_case(rows: list[Row], case: str, *, least: int = 0) -> list[Row]:
    """Return the rows of a case, of files of so many weights."""
    return [row for row in rows if row["case"] == case and int(row["words"]) >= least]


def _against(rows: list[Row], case: str, *, least: int = 0) -> Figure | None:
    """Return balanced accuracy of a case, against the same files without it."""
    attacked = of_case(rows, case, least=least)
    form = next((form for form in ("bfloat16", "int8") if f"-{form}-" in case), "")
    files = {row["file"] for row in attacked}
    clean = of_case(rows, f"clean-{form}" if form else "as it is")
    clean = [row for row in clean if row["file"] in files and row["attacked"] == "0"]
    return balanced(clean, attacked)


def _clean(
    rows: list[Row], kinds: tuple[str, ...], cases: tuple[str, ...] = ("as it is",)
) -> list[Row]:
    return [row for case in cases for row in of_case(rows, case)
            if row["attacked"] == "0" and row["kind"] in kinds]  # fmt: skip


def main_lines(rows: list[Row]) -> list[Line]:
    """Return the lines of the table of requirements."""
    against = lambda case, least=0: _against(rows, case, least=least)
    of_zoo = share(_clean(rows, ("zoo",)), suspicious)
    of_packages = _clean(rows, ("package",))
    networks = ("trained", "tuned", "cast", "checkpoint")
    drawn = _clean(rows, ("drawn",))
    forms = _clean(rows, ("drawn",), ("clean-bfloat16", "clean-float16", "clean-int8"))
    return [
        Line("false alarms, clean files of unseen repositories",
             "0 of 5, 0 of 14, 0 of 3", of_zoo, 0.02, 0.005, less=True),
        Line("false alarms, clean networks of unseen seeds", "",
             share(_clean(rows, networks), suspicious), 0.02, 0.005, less=True),
        *([Line("false alarms, clean files of packages", "",
                share(of_packages, suspicious), 0.02, 0.005, less=True)]
          if of_packages else []),
        Line("false alarms, layers that were never trained", "",
             share(drawn, suspicious), 0.02, 0.005, less=True),
        Line("the same in bfloat16, float16 and int8", "", share(forms, suspicious),
             0.02, 0.005, less=True),
        Line("program, all weights, X = 8", "0.689, 0.889", against("program-8"), 1.0),
        Line("the same, X = 2", "0.50 to 0.60", against("program-2"), 0.99, 1.0),
        Line("the same, X = 1", "0.50", against("program-1"), None, 1.0),
        Line("program, X = 4, in 5 % of the weights", "", against("program-4-part"),
             0.9, 0.98),
        Line("zlib, X = 8", "", against("zlib-8"), 0.97, 1.0),
        Line("encrypted, float32, X = 16, > 3 M weights", "0.653 (0.917)",
             against("encrypted-16", LARGE), 0.95, 1.0),
        Line("the same, X = 15", "about 0.41 (0.77)", against("encrypted-15", LARGE),
             None, 0.9),
        Line("the same, X = 20, any number of weights", "(1.00)",
             against("encrypted-20")),
        Line("the same, X = 23: all of the mantissa", "(1.00)",
             against("encrypted-23")),
        Line("encrypted, bfloat16, X = 4", "", against("encrypted-bfloat16-4"), 0.97,
             1.0),
        Line("the same, X = 2", "", against("encrypted-bfloat16-2"), None, 0.9),
        Line("the same, X = 7: all of the mantissa", "",
             against("encrypted-bfloat16-7")),
        Line("encrypted, int8, 1 bit", "", against("encrypted-int8-1"), 0.97, 1.0),
        Line("encrypted, float32, X = 8: the blind spot says so", "chance",
             share(of_case(rows, "encrypted-8"), _number("covered")), 1.0),
        Line("spread spectrum, hidden in clean networks", "0.504", _spread(rows, False),
             0.9, 0.95),
        Line("the same, trained on afterwards", "0.504", _spread(rows, True), 0.9,
             0.95),
        Line("3 + 3 files of an unseen family, X = 2", "0.832 at X = 5", _adapted(rows),
             0.95),
    ]  # fmt: skip


def _number(column: str) -> Callable[[Row], float]:
    return lambda row: float(row[column] or 0)


def _spread(rows: list[Row], tuned: bool) -> Figure | None:
    """Return balanced accuracy, against all clean networks, copies trained on too."""
    clean = _clean(rows, ("trained", "tuned"))
    if tuned:
        attacked = [row for row in of_case(rows, "as it is") if row["attacked"] == "1"]
    else:
        attacked = of_case(rows, "spread")
    return balanced(clean, attacked)


def _adapted(rows: list[Row]) -> Figure | None:
    """Return the mean balanced accuracy of repetitions; each of them is a group."""
    found = of_case(rows, "adapt")
    sides = [[row for row in found if row["attacked"] == side] for side in "01"]
    return balanced(*sides)


FOUND = (
    ("program-8", "program, X = 8"), ("program-2", "program, X = 2"),
    ("program-1", "program, X = 1"), ("program-4-part", "program, X = 4, 5 %"),
    ("zlib-8", "zlib, X = 8"), ("encrypted-16", "encrypted, float32, X = 16"),
    ("encrypted-15", "encrypted, float32, X = 15"),
    ("encrypted-20", "encrypted, float32, X = 20"),
    ("encrypted-23", "encrypted, float32, X = 23"),
    ("encrypted-8", "encrypted, float32, X = 8"),
    ("encrypted-bfloat16-4", "encrypted, bfloat16, X = 4"),
    ("encrypted-bfloat16-2", "encrypted, bfloat16, X = 2"),
    ("encrypted-bfloat16-1", "encrypted, bfloat16, X = 1"),
    ("encrypted-bfloat16-7", "encrypted, bfloat16, X = 7"),
    ("encrypted-int8-1", "encrypted, int8, 1 bit"),
    ("spread", "spread spectrum"),
)  # fmt: skip
SIZES = (
    (0, 300_000, "< 0.3 M"),
    (300_000, LARGE, "0.3 to 3 M"),
    (LARGE, 10**12, "> 3 M"),
)


def _found(rows: list[Row]) -> str:
    """Return a table of what is found, by case and number of weights."""
    lines = [
        f"| found | {' | '.join(name for *_, name in SIZES)} |",
        "|---|---|---|---|",
    ]
    for case, name in FOUND:
        cells = []
        for least, most, _ in SIZES:
            some = [row for row in of_case(rows, case, least=least)
                    if int(row["words"]) < most]  # fmt: skip
            figure = share(some, suspicious)
            cells.append(f"{figure}, {figure.files}" if figure else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


THEORY = (("encrypted-16", 16, 24), ("encrypted-15", 15, 24), ("encrypted-8", 8, 24),
          ("encrypted-bfloat16-4", 4, 8), ("encrypted-bfloat16-2", 2, 8),
          ("encrypted-bfloat16-1", 1, 8))  # fmt: skip


def _theory(rows: list[Row]) -> str:
    """Return how far apart theory puts clean and attacked, beside what was found."""
    lines = ["| case | files with z ≥ 4 | found of these | found of the others |",
             "|---|---|---|---|"]  # fmt: skip
    for case, bits, below in THEORY:
        some = of_case(rows, case)
        apart = [
            0.36 * 2.0 ** (bits - below) * int(row["words"]) ** 0.5 for row in some
        ]
        sides = [[row for row, z in zip(some, apart, strict=True) if (z >= 4) is side]
                 for side in (True, False)]  # fmt: skip
        cells = [str(share(side, suspicious) or "") for side in sides]
        name = dict(FOUND)[case]
        lines.append(
            f"| {name} | {len(sides[0])} of {len(some)} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _blind(rows: list[Row]) -> str:
    """Return what a scrub leaves of encrypted data that nothing sees."""
    some = [row for row in of_case(rows, "encrypted-8") if row["error_rate"]]
    errors = share(some, _number("error_rate"))
    if errors is None:
        return "Not measured."
    rates = [float(row["error_rate"]) for row in some]
    return (
        "After `disarm` with the bits that the blind spot names, the bit error rate is "
        f"{errors}, from {min(rates):.4f} to {max(rates):.4f} in {errors.files} files."
    )


def _named(rows: list[Row]) -> str:
    """Return how many of the attacked tensors are named."""
    some = [row for row in of_case(rows, "program-4-part") if row["suspicious"] == "1"]
    every = share(some, _number("named"))
    if every is None:
        return "Not measured."
    one = share(some, lambda row: float(float(row["named"] or 0) > 0))
    weights = share(some, _number("in_named"))
    wrong = share(some, lambda row: float(int(row["wrongly"] or 0) > 0))
    return (
        "Of the files in which the program in 5 % of the weights is found, an attacked "
        f"tensor is named in {one}. Of the attacked tensors {every} are named, which "
        f"have {weights} of their weights: small ones say too little by themselves. "
        f"Another tensor is named as well in {wrong}."
    )


ADAPTIVE = (
    ("program-2-one-percent", "program, X = 2, in 1 % of the weights, in one run"),
    ("program-2-keyed", "program, X = 2, in 5 % of the weights, at places of a key"),
    ("program-2-matching", "program, X = 2, by matching: one step up or down"),
    (
        "program-1-keyed-matching",
        "program, X = 1, in 5 %, at places of a key, matching",
    ),
    ("encrypted-10", "encrypted, float32, X = 10"),
    ("encrypted-8-skip-exact", "encrypted, float32, X = 8, zeros and ones left alone"),
    ("encrypted-16-five-percent", "encrypted, float32, X = 16, in 5 % of the weights"),
    ("encrypted-16-coded", "encrypted, float32, X = 16, by a perfect code"),
    ("encrypted-bfloat16-1", "encrypted, bfloat16, X = 1"),
    ("encrypted-bfloat16-4-coded", "encrypted, bfloat16, X = 4, by a perfect code"),
    ("encrypted-8-upcast", "encrypted, X = 8, in bfloat16 made float32"),
    ("encrypted-16-upcast", "encrypted, X = 16, in bfloat16 made float32"),
    ("spread-3e-4", "spread spectrum, γ = 3·10⁻⁴"),
    ("program-2-optimiser", "program, X = 2, in the state of an optimiser"),
    ("encrypted-8-optimiser", "encrypted, X = 8, in the state of an optimiser"),
)


def _adaptive(rows: list[Row]) -> str:
    """Return what attackers who know the detector get past it."""
    lines = [
        "| attack | found, 95 % interval | files (groups) | |",
        "|---|---|---|---|",
    ]
    for case, what in ADAPTIVE:
        figure = share(of_case(rows, case), suspicious)
        if figure is None:
            lines.append(f"| {what} | not measured | | |")
            continue
        said = ("escapes" if figure.value <= 0.1 else
                "" if figure.value >= 0.95 else "escapes in part")  # fmt: skip
        lines.append(
            f"| {what} | {figure} | {figure.files} ({figure.groups}) | {said} |"
        )
    return "\n".join(lines)


def _false(rows: list[Row]) -> str:
    """Return which clean files raise the alarm."""
    clean = [row for row in rows if row["attacked"] == "0" and row["case"] != "adapt"]
    wrong = [f"`{row['file']}` ({row['case']})" for row in clean if suspicious(row)]
    named = f": {', '.join(wrong)}" if wrong else ""
    return f"{len(wrong)} of {len(clean)} answers about clean files were alarms{named}."


def _counts(rows: list[Row]) -> str:
    """Return how much was measured."""
    files = {row["file"] for row in rows}
    zoo = {row["group"] for row in rows if row["kind"] == "zoo"}
    runs = {row["group"] for row in rows
            if row["kind"] not in ("zoo", "package", "drawn")
            and row["case"] != "adapt"}  # fmt: skip
    packages = {row["group"] for row in rows if row["kind"] == "package"}
    more = f", {len(packages)} owners of packages" if packages else ""
    minutes = sum(float(row["seconds"]) for row in rows) / 60
    return (f"{len(rows):,} answers about {len(files)} files, of {len(zoo)} owners of "
            f"repositories{more} and {len(runs)} training runs; {minutes:.0f} minutes "
            f"of a processor, without training networks.")  # fmt: skip
