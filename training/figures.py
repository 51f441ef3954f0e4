"""Thresholds and figures of the detector, by embeddings that have not seen the family.

Rules:

1. A threshold is the highest logit of clean files, kind by kind, and `MARGIN`. Of n
   groups that are alike, another one is above with chance 1 / (n + 1) at most. Layers
   that were never trained raise it, and are not counted among the n.
2. False alarms are counted as thresholds of all *other* groups would give them.
3. An interval of 95 % is that of Clopper and Pearson where files are of different
   groups, and a bootstrap over groups where several are of one.
4. Adapting is rehearsed: three clean files and three that hold something, of as many
   groups as there are, and then what is left of the family.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from prototypes import Rows, models_of_folds

from safemodel._detector import spread_score
from safemodel._detector.prototypes import LEAST_APART
from safemodel._detector.traits import KINDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

MARGIN = 0.25
FLOOR = -1.0
P_VALUE = log(1e-3)
_REPEATS = 30
_WAY = 0.5
_NETS = 3_000_000
_LARGE = 150_000
ROWS = {
    # row → (attack, at least so many weights, must)
    "program, X = 8": ("program-8-held", 0, "1.00"),
    "program, X = 2": ("program-2-held", 0, "0.99"),
    "the same, 10,000 weights or more": ("program-2-held", 10_000, "0.99"),
    "program, X = 1": ("program-1-held", 0, "1.00 (aim)"),
    "program, X = 4, 5 % of the weights": ("program-4-part-held", _LARGE, "0.90"),
    "the same, payload of training": ("program-4-part", _LARGE, ""),
    "zlib, X = 8": ("zlib-8-held", 0, "0.97"),
    "encrypted, float32, X = 16, > 3 M weights": ("encrypted-16", _NETS, "0.95"),
    "encrypted, float32, X = 15, > 3 M weights": ("encrypted-15", _NETS, "0.90 (aim)"),
    "encrypted, float32, X = 18": ("encrypted-18", _LARGE, ""),
    "encrypted, float32, X = 8": ("encrypted-8", 0, "chance"),
    "encrypted, bf16, X = 4": ("encrypted-bfloat16-4", _LARGE, "0.97"),
    "encrypted, bf16, X = 2": ("encrypted-bfloat16-2", _LARGE, "0.90 (aim)"),
    "encrypted, bf16, X = 1": ("encrypted-bfloat16-1", _LARGE, ""),
    "encrypted, fp16, X = 5": ("encrypted-float16-5", _LARGE, ""),
    "encrypted, fp16, X = 3": ("encrypted-float16-3", _LARGE, ""),
    "encrypted, fp16 stored as float32, X = 8": ("encrypted-upcast-8", 0, ""),
    "encrypted, int8, 1 bit": ("encrypted-int8-1", _LARGE, "0.97"),
    "the same, a scale for each row": ("encrypted-int8-rows-1", _LARGE, ""),
    "encrypted, int4, 1 bit": ("encrypted-int4-1", _LARGE // 2, ""),
    "spread spectrum, then tuned, networks of ours": ("clean+spread", 0, "0.90"),
    "spread spectrum, 10 % of the weights": ("spread-10", 0, ""),
    "spread spectrum, 40 % of the weights": ("spread-40", 0, ""),
    "program, X = 2, matching": ("program-2-matching", 0, ""),
    "program, X = 8, keyed places, 20 %": ("program-8-spread-out", 0, ""),
}


class HeldOut(NamedTuple):
    """What embeddings say that have not seen a family.

    Attributes:
        logits: (n,).
        points: (n, DIMENSIONS), each by the embedding of its fold.
        thresholds: (kinds,) (rule 1).
        rate: Of false alarms of these.
        way: How far on the way between own prototypes is too far.
        own_rate: Of false alarms of that.
    """

    logits: NDArray[np.float64]
    points: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    rate: float
    way: float
    own_rate: float


def held_out(rows: Rows) -> HeldOut:
    """Return logits and thresholds."""
    logits, points = models_of_folds(rows)
    thresholds, groups = thresholds_of(rows, logits, rows.clean)
    way, number = way_of_families(rows, points)
    return HeldOut(logits, points, thresholds, 1 / (groups + 1), way, 1 / (number + 1))


def thresholds_of(
    rows: Rows, logits: NDArray[np.float64], used: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], int]:
    """Return rule 1, and the least number of groups of a kind."""
    found, groups = [], []
    for at in range(len(KINDS)):
        mine = used & rows.kinds[:, at]
        found.append(
            max(FLOOR, float(logits[mine].max()) + MARGIN) if mine.any() else 0.0
        )
        groups.append(len(np.unique(rows.groups[mine & ~rows.drawn])))
    return np.array(found), min(groups)


def limits_of(rows: Rows, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the threshold of each row: the highest of its kinds."""
    kinds = rows.kinds.copy()
    kinds[~kinds.any(1), 0] = True
    return np.where(kinds, thresholds, -np.inf).max(1)


def found_in(rows: Rows, found: HeldOut) -> NDArray[np.bool_]:
    """Return which rows are suspicious."""
    by_logit = found.logits >= limits_of(rows, found.thresholds)
    return by_logit | _sure(rows)


def _sure(rows: Rows) -> NDArray[np.bool_]:
    """Return which rows are suspicious without the prototypes."""
    noisy = rows.noise >= spread_score.THRESHOLD
    return (rows.log_p <= P_VALUE) | rows.even | noisy


def way_of_families(rows: Rows, points: NDArray[np.float64]) -> tuple[float, int]:
    """Return how far clean files of groups left out are on the way, at most."""
    random = np.random.default_rng(0)
    most, numbers = [], []
    for _ in range(_REPEATS):
        ways = []
        for family in np.unique(rows.families):
            mine = rows.families == family
            for group in np.unique(rows.groups[mine & rows.clean]):
                way = _way_of_group(rows, points, mine, group, random)
                if way is not None:
                    ways.append(way)
        most.append(max(ways))
        numbers.append(len(ways))
    return max(_WAY, float(np.median(most))), min(numbers)


def _way_of_group(
    rows: Rows, points: NDArray[np.float64], mine: NDArray[np.bool_], group: int,
    random: np.random.Generator,
) -> float | None:  # fmt: skip
    """Return how far on the way a clean group is, others of its family being known."""
    others = mine & (rows.groups != group)
    attacks = np.unique(rows.attacks[others & (rows.classes > 0)])
    if attacks.size == 0:
        return None
    attack = random.choice(attacks)
    dirty = np.flatnonzero(others & (rows.attacks == attack) & (rows.classes > 0))
    form = rows.forms[dirty[0]]
    clean = np.flatnonzero(others & rows.clean & (rows.forms == form))
    asked = mine & rows.clean & (rows.groups == group) & (rows.forms == form)
    if (
        min(len(np.unique(rows.groups[some])) for some in (clean, dirty)) < 3
        or not asked.any()
    ):
        return None
    start = points[random.permutation(clean)[:3]].mean(0)
    step = points[random.permutation(dirty)[:3]].mean(0) - start
    length = float(step @ step)
    if length < LEAST_APART:
        return None
    return float(((points[asked] - start) @ step).max() / length)


def table_of_alarms(rows: Rows, found: HeldOut) -> str:
    """Return false alarms, form by form (rule 2)."""
    alarms = np.zeros(len(rows.classes), np.bool_)
    for group in np.unique(rows.groups):
        mine = rows.groups == group
        limits, _ = thresholds_of(rows, found.logits, rows.clean & ~mine)
        alarms |= mine & (found.logits >= limits_of(rows, limits))
    ways = (alarms.copy(), rows.log_p <= P_VALUE, rows.even,
            rows.noise >= spread_score.THRESHOLD)  # fmt: skip
    alarms |= _sure(rows)
    made = [("| clean files | files | groups | false alarms | by way | groups with one"
            " | 95 % |\n|---|---|---|---|---|---|---|")]  # fmt: skip
    trained, plain = rows.clean & ~rows.drawn, rows.attacks == "clean"
    parts = {"all, as they are": plain & trained,
             "by others, as they are": plain & rows.others}  # fmt: skip
    for form in ("bfloat16", "float16", "upcast", "int8", "int8-rows", "int4"):
        parts[f"as {form}"] = (rows.attacks == f"clean-{form}") & trained
    parts["never trained, as they are"] = plain & rows.drawn
    parts["never trained, in other forms"] = ~plain & rows.drawn
    for name, used in parts.items():
        groups = np.unique(rows.groups[used])
        hit = len(np.unique(rows.groups[used & alarms]))
        low, high = clopper(hit, len(groups))
        made.append(
            f"| {name} | {used.sum()} | {len(groups)} | {(used & alarms).sum()}"
            f" | {', '.join(str((used & way).sum()) for way in ways)} | {hit}"
            f" | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(made) + "\n"


def table_of_rows(rows: Rows, found: HeldOut) -> str:
    """Return what is found of each attack."""
    hits = found_in(rows, found)
    sure = _sure(rows)
    made = ["| case | must | files | found | 95 % | without prototypes | AUC |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, (attack, least, must) in ROWS.items():
        used = (rows.attacks == attack) & (rows.words >= least)
        if not used.any():
            continue
        low, high = interval(hits[used], rows.groups[used])
        base = rows.clean & (rows.forms == rows.forms[used][0]) & (rows.words >= least)
        base &= ~rows.drawn
        made.append(
            f"| {name} | {must} | {used.sum()} | {hits[used].mean():.3f} |"
            f" {low:.2f} to {high:.2f} | {sure[used].mean():.3f} |"
            f" {auc(found.logits[base], found.logits[used]):.3f} |"
        )
    return "\n".join(made) + "\n"


def table_of_adaptation(rows: Rows, found: HeldOut) -> str:
    """Return balanced accuracy after adapting to three and three files (rule 4)."""
    made = ["| attack | families | balanced accuracy | 95 % | found | false alarms |",
            "|---|---|---|---|---|---|"]  # fmt: skip
    for name, attack in (("program, X = 2", "program-2-held"),
                         ("program, X = 1", "program-1-held"),
                         ("encrypted, float32, X = 18", "encrypted-18"),
                         ("encrypted, int8, 1 bit", "encrypted-int8-1")):  # fmt: skip
        every = []
        for family in np.unique(rows.families):
            some = _rehearsed(rows, found, int(family), attack)
            if some is not None:
                every.append(some)
        if every:
            means = np.array(every)
            balanced = (means[:, 0] + 1 - means[:, 1]) / 2
            random = np.random.default_rng(0)
            drawn = random.choice(balanced, (2000, balanced.size)).mean(1)
            low, high = np.quantile(drawn, (0.025, 0.975))
            made.append(
                f"| {name} | {len(every)} | {balanced.mean():.3f} | {low:.3f} to"
                f" {high:.3f} | {means[:, 0].mean():.3f} | {means[:, 1].mean():.3f} |"
            )
    return "\n".join(made) + "\n"


def _rehearsed(
    rows: Rows, found: HeldOut, family: int, attack: str
) -> tuple[float, float] | None:
    """Return what is found, and false alarms: means of 30 choices of the six."""
    random = np.random.default_rng(family)
    mine = rows.families == family
    dirty = np.flatnonzero(mine & (rows.attacks == attack))
    if not dirty.size:
        return None
    clean = np.flatnonzero(mine & rows.clean & (rows.forms == rows.forms[dirty[0]]))
    if min(len(np.unique(rows.groups[some])) for some in (clean, dirty)) < 4:
        return None
    base = found_in(rows, found)
    made = []
    for _ in range(_REPEATS):
        one, two = random.permutation(clean), random.permutation(dirty)
        start = found.points[one[:3]].mean(0)
        step = found.points[two[:3]].mean(0) - start
        length = max(float(step @ step), 1e-9)
        own = (found.points - start) @ step / length >= found.way
        hits = base | (own & (length >= LEAST_APART))
        known = rows.groups[np.concatenate((one[:3], two[:3]))]
        rest = [some[3:][~np.isin(rows.groups[some[3:]], known)] for some in (one, two)]
        if min(len(some) for some in rest):
            made.append((hits[rest[1]].mean(), hits[rest[0]].mean()))
    return tuple(np.mean(made, 0)) if made else None


def auc(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Return the chance that one of the second is above one of the first."""
    if not (low.size and high.size):
        return float("nan")
    return float(((high[:, None] > low).mean() + (high[:, None] >= low).mean()) / 2)


def interval(hits: NDArray[np.bool_], groups: NDArray[np.int64]) -> tuple[float, float]:
    """Return an interval of 95 % for a share of hits (rule 3)."""
    names = np.unique(groups)
    if len(names) == len(hits) or hits.all() or not hits.any():
        share = hits.mean()
        return clopper(round(share * len(names)), len(names))
    means = np.array(
        [[hits[groups == name].sum(), (groups == name).sum()] for name in names]
    )
    drawn = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    sums = means[drawn].sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return float(low), float(high)


def clopper(hits: int, number: int) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson."""
    shares = np.linspace(0, 1, 20_001)
    if not number:
        return 0.0, 1.0
    below = np.array([_at_most(hits, number, share) for share in shares])
    above = 1 - np.array([_at_most(hits - 1, number, share) for share in shares])
    low = 0.0 if hits == 0 else float(shares[np.argmax(above >= 0.025)])
    high = (
        1.0
        if hits == number
        else float(shares[len(shares) - 1 - np.argmax(below[::-1] >= 0.025)])
    )
    return low, high


def _at_most(hits: int, number: int, share: float) -> float:
    """Return the chance of at most so many hits."""
    total, term = 0.0, (1 - share) ** number
    if share >= 1:
        return float(hits >= number)
    for at in range(hits + 1):
        total += term
        term *= (number - at) / (at + 1) * share / (1 - share)
    return total
