"""Train the embedding of the detector, and measure it on families it has not seen.

Rules:

1. A fold holds whole families: no architecture, and no field of use of the zoo, is in
   training and in its test at once.
2. Each group (repository or run) counts as one, however many files it has.
3. A threshold is set by clean groups of the training side, each scored by the
   embedding of the fold that has not seen it: the highest score of n groups is
   reached by another with chance 1 / (n + 1) at most, if groups are alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from material import ATTACKS
from source import BY_OTHERS, DRAWN

from safemodel._detector import evenness, spread_score
from safemodel._detector.prototypes import CLASSES as OTHERS
from safemodel._detector.prototypes import DIMENSIONS
from safemodel._detector.traits import (
    KINDS,
    is_conclusive,
    kind_of,
    kinds_in,
    traits_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from material import Sample
    from numpy.typing import NDArray

    from safemodel._detector.statistics import Statistics

    Members = tuple[NDArray[np.int64], NDArray[np.int64]]

CLASSES = ("clean", *OTHERS)
"""Of files; all but the first hold something."""
FOLDS = 6
_SORTS = {"wide": "wide floats", "bfloat16": "short floats", "float16": "short floats",
          "integer": "integers", "packed": "integers"}  # fmt: skip
_APART = 3.0
_STEPS, _BATCH, _RATE = 600, 384, 2e-2
_SMALL = 0.02
"""Weight of the squares of the embedding in the loss: keeps folds alike."""
_EPISODES = 16
_WEIGHT = 3.0
"""Of clean rows in the loss."""


class Rows(NamedTuple):
    """Traits of samples, and what is known of each.

    Attributes:
        traits: (n, d).
        classes: (n,) index into `CLASSES`; -1: not for training.
        groups: (n,) index of a group.
        families: (n,) index of a family.
        attacks: Names.
        forms: Names.
        words: Weights.
        kinds: (n, kinds); which there are.
        log_p: Lowest of conclusive p-values, corrected.
        even: Which are far too even (`evenness.enough`).
        noise: Score of added noise.
        others: Which are of files that somebody else trained.
        drawn: Which are of files that nobody trained.
    """

    traits: NDArray[np.float64]
    classes: NDArray[np.int64]
    groups: NDArray[np.int64]
    families: NDArray[np.int64]
    attacks: NDArray[np.str_]
    forms: NDArray[np.str_]
    words: NDArray[np.int64]
    kinds: NDArray[np.bool_]
    log_p: NDArray[np.float64]
    even: NDArray[np.bool_]
    noise: NDArray[np.float64]
    others: NDArray[np.bool_]
    drawn: NDArray[np.bool_]

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Return which rows hold nothing."""
        return self.classes == 0

    def some(self, which: NDArray[np.bool_]) -> Rows:
        """Return the rows of a mask."""
        return Rows(*(column[which] for column in self))


def rows_of(samples: Sequence[Sample]) -> Rows:
    """Return samples as arrays."""
    groups = {
        name: at for at, name in enumerate(sorted({s.source.group for s in samples}))
    }
    families = {
        name: at for at, name in enumerate(sorted({s.source.family for s in samples}))
    }
    return Rows(
        np.stack([traits_of(one.statistics) for one in samples]),
        np.array([class_of(one) for one in samples]),
        np.array([groups[one.source.group] for one in samples]),
        np.array([families[one.source.family] for one in samples]),
        np.array(
            [
                one.attack if not one.source.attack else f"{one.attack}+spread"
                for one in samples
            ]
        ),
        np.array([ATTACKS[one.attack].form for one in samples]),
        np.array([one.words for one in samples]),
        np.array(
            [[kind in kinds_in(one.statistics) for kind in KINDS] for one in samples]
        ),
        np.array([lowest(one.statistics) for one in samples]),
        np.array([bool(evenness.enough(one.statistics)) for one in samples]),
        np.array([spread_score.score(one.statistics.noise) for one in samples]),
        np.array([one.source.kind in BY_OTHERS for one in samples]),
        np.array([one.source.kind == DRAWN for one in samples]),
    )


def lowest(statistics: Statistics) -> float:
    """Return the lowest conclusive p-value of a file, as a logarithm."""
    ledger = statistics.ledger
    return min(
        (ledger.log_p(one) for one in ledger.kept if is_conclusive(one)),
        default=0.0,
    )


def class_of(one: Sample) -> int:
    """Return the class of a sample; -1 where theory says that it looks like another."""
    attack = ATTACKS[one.attack]
    if one.source.attack or attack.held_out:
        return -1
    if attack.method is None:
        return 0
    if one.attack.startswith("spread"):
        # Its score decides about it. Prototypes that were to learn it, too, would trust
        # the p-value of `common-noise`, which some clean files have as well.
        return -1
    if attack.payload != "random":
        return CLASSES.index("uneven bytes")
    if attack.form == "upcast":
        return CLASSES.index("a broken rounding")
    bits = int(one.attack.rsplit("-", 1)[1])
    known = {kind_of(dtype, at): found.apart
             for (dtype, at), found in sorted(one.statistics.uniformity.items())
             if at <= bits}  # fmt: skip
    kind = max(known, key=known.__getitem__, default="wide")
    if known.get(kind, 0.0) < _APART:
        return -1
    sort = _SORTS.get(kind)
    return CLASSES.index(f"uniform bits of {sort}") if sort else -1


class Embedding(torch.nn.Module):
    """A linear map of weights that are not negative: more evidence is never less."""

    def __init__(self, traits: NDArray[np.float64]) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(
            0.5 * torch.randn(DIMENSIONS, traits.shape[1]) - 2.0
        )

    def weights(self) -> torch.Tensor:
        """Return (DIMENSIONS, traits)."""
        return torch.nn.functional.softplus(self.raw)

    def forward(self, traits: torch.Tensor) -> torch.Tensor:
        """Return (n, DIMENSIONS)."""
        return traits @ self.weights().T


def logits(
    points: torch.Tensor, clean: torch.Tensor, other: torch.Tensor
) -> torch.Tensor:
    """Return how much nearer points are to other prototypes than to clean ones."""
    return torch.logsumexp(-(torch.cdist(points, other) ** 2), 1) - torch.logsumexp(
        -(torch.cdist(points, clean) ** 2), 1
    )


def fit(rows: Rows, seed: int = 0) -> Embedding:
    """Train an embedding: classes of the whole, and few of one family at a time."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    rows = rows.some(rows.classes >= 0)
    model = Embedding(rows.traits)
    data = torch.tensor(rows.traits, dtype=torch.float32)
    target = torch.tensor(rows.classes)
    chances = torch.tensor(_chances(rows))
    members = [one for one in (_members(rows, key) for key in _keys(rows)) if one]
    optimiser = torch.optim.Adam(model.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        taken = torch.multinomial(chances, 2 * _BATCH, replacement=True)
        parts = [taken] + [
            torch.tensor(_episode(members, random)) for _ in range(_EPISODES)
        ]
        points = model(data[torch.cat(parts)])
        known = target[taken]
        some, asked = points[:_BATCH], points[_BATCH : 2 * _BATCH]
        loss = _loss(
            logits(asked, *_prototypes(some, known[:_BATCH])), known[_BATCH:] > 0
        )
        few = points[2 * _BATCH :].reshape(_EPISODES, 4, 3, DIMENSIONS)
        middle = few[:, :2].mean(2)
        away = ((few[:, 2:].reshape(_EPISODES, 6, 1, -1) - middle[:, None]) ** 2).sum(
            -1
        )
        truth = torch.tensor([0, 0, 0, 1, 1, 1]).expand(_EPISODES, 6) > 0
        loss = loss + _loss(
            (away[..., 0] - away[..., 1]).reshape(-1), truth.reshape(-1)
        )
        loss = loss + _SMALL * (model.weights() ** 2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def _prototypes(
    points: torch.Tensor, classes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of clean points, and of each other class."""
    is_in = torch.nn.functional.one_hot(classes, len(CLASSES)).float()
    every = (is_in.T @ points) / is_in.sum(0)[:, None].clamp(1)
    present = is_in.sum(0) > 0
    return every[:1], every[1:][present[1:]]


def _keys(rows: Rows) -> list[tuple[int, str]]:
    dirty = rows.classes > 0
    return sorted(
        {
            (int(f), str(a))
            for f, a in zip(rows.families[dirty], rows.attacks[dirty], strict=True)
        }
    )


def _members(rows: Rows, key: tuple[int, str]) -> Members | None:
    """Return clean and other rows of one family, form and attack, if they suffice."""
    family, attack = key
    mine = rows.families == family
    dirty = np.flatnonzero(mine & (rows.attacks == attack) & (rows.classes > 0))
    form = rows.forms[dirty[0]]
    clean = np.flatnonzero(mine & (rows.classes == 0) & (rows.forms == form))
    return (clean, dirty) if min(clean.size, dirty.size) >= 4 else None


def _episode(members: list[Members], random: np.random.Generator) -> NDArray[np.int64]:
    """Return 3 clean and 3 other rows, and again 3 and 3, in that order."""
    clean, dirty = members[random.integers(len(members))]
    first, second = random.permutation(clean), random.permutation(dirty)
    return np.concatenate(
        (first[:3], second[:3], np.resize(first[3:], 3), np.resize(second[3:], 3))
    )


def _loss(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        found.clamp(-30, 30), truth.float(), reduction="none"
    )
    return (each * torch.where(truth, 1.0, _WEIGHT)).mean()


def _chances(rows: Rows) -> NDArray[np.float64]:
    """Return chances that make classes alike, and groups within them (rule 2)."""
    chances = np.zeros(len(rows.classes))
    for at in np.unique(rows.classes):
        mine = rows.classes == at
        groups, where, counts = np.unique(
            rows.groups[mine], return_inverse=True, return_counts=True
        )
        chances[mine] = 1 / counts[where] / len(groups) * (3 if at == 0 else 1)
    return chances / chances.sum()


def folds(rows: Rows, number: int) -> NDArray[np.int64]:
    """Return the fold of each row: families, of about as many groups each (rule 1)."""
    groups = {
        at: len(np.unique(rows.groups[rows.families == at]))
        for at in np.unique(rows.families)
    }
    filled = [0] * number
    place = {}
    for family in sorted(groups, key=lambda at: -groups[at]):
        fold = filled.index(min(filled))
        place[family] = fold
        filled[fold] += groups[family]
    return np.array([place[at] for at in rows.families])


@torch.no_grad()
def models_of_folds(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logit and the point of each row, by what has not seen its family."""
    which = folds(rows, FOLDS)
    found, points = np.zeros(len(which)), np.zeros((len(which), DIMENSIONS))
    for fold in range(FOLDS):
        train, mine = rows.some(which != fold), which == fold
        with torch.enable_grad():
            model = fit(train)
        made = model(torch.tensor(rows.traits[mine], dtype=torch.float32))
        points[mine] = made.double().numpy()
        found[mine] = logits(made, *prototypes_of(model, train)).double().numpy()
    return found, points


@torch.no_grad()
def prototypes_of(model: Embedding, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of clean files, and of each other class, groups alike."""
    points = model(torch.tensor(rows.traits, dtype=torch.float32))
    made = []
    for at in range(len(CLASSES)):
        mine = rows.classes == at
        if not mine.any():
            mine = rows.classes > 0  # a fold without any: no nearer than the others
        weights = torch.tensor(_chances(rows.some(mine)), dtype=torch.float32)
        made.append((weights / weights.sum()) @ points[torch.tensor(mine)])
    return torch.stack(made[:1]), torch.stack(made[1:])
