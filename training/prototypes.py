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

from safemodel._detector.traits import KINDS, kind_of, traits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from material import Sample
    from numpy.typing import NDArray

CLASSES = ("clean", "uneven", "uniform wide", "uniform short", "uniform integer", "fact", "noise")
"""Of files; all but the first hold something."""
HIDDEN, DIMENSIONS = 24, 8
_APART = 3.0
_STEPS, _BATCH, _RATE, _DECAY = 300, 192, 2e-2, 1e-3
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
    """

    traits: NDArray[np.float64]
    classes: NDArray[np.int64]
    groups: NDArray[np.int64]
    families: NDArray[np.int64]
    attacks: NDArray[np.str_]
    forms: NDArray[np.str_]
    words: NDArray[np.int64]

    def some(self, which: NDArray[np.bool_]) -> Rows:
        """Return the rows of a mask."""
        return Rows(*(column[which] for column in self))


def rows_of(samples: Sequence[Sample]) -> Rows:
    """Return samples as arrays."""
    groups = {name: at for at, name in enumerate(sorted({s.source.group for s in samples}))}
    families = {name: at for at, name in enumerate(sorted({s.source.family for s in samples}))}
    return Rows(
        np.stack([traits_of(one.statistics) for one in samples]),
        np.array([class_of(one) for one in samples]),
        np.array([groups[one.source.group] for one in samples]),
        np.array([families[one.source.family] for one in samples]),
        np.array([one.attack if not one.source.attack else f"{one.attack}+spread" for one in samples]),
        np.array([ATTACKS[one.attack].form for one in samples]),
        np.array([one.words for one in samples]),
    )


def class_of(one: Sample) -> int:
    """Return the class of a sample; -1 where theory says that it looks like another."""
    attack = ATTACKS[one.attack]
    if one.source.attack:
        return -1
    if attack.method is None:
        return 0
    if attack.held_out:
        return -1
    if "spread" in one.attack and attack.payload[0] == "0":
        return -1
    if attack.payload != "random":
        return CLASSES.index("uneven")
    if attack.form == "upcast":
        return CLASSES.index("fact")
    bits = int(one.attack.rsplit("-", 1)[1])
    apart = 0.0
    kind = "wide"
    for (dtype, at), found in one.statistics.uniformity.items():
        if at <= bits:
            kind = kind_of(dtype, at)
            apart = max(apart, found.apart)
    if apart < _APART:
        return -1
    if kind == "wide":
        return CLASSES.index("uniform wide")
    return CLASSES.index(
        "uniform integer" if kind in KINDS[4:] else "uniform short"
    )


class Embedding(torch.nn.Module):
    """A linear map of weights that are not negative: more evidence is never less."""

    def __init__(self, traits: NDArray[np.float64]) -> None:
        super().__init__()
        self.raw = torch.nn.Parameter(0.5 * torch.randn(DIMENSIONS, traits.shape[1]) - 2.0)

    def forward(self, traits: torch.Tensor) -> torch.Tensor:
        """Return (n, DIMENSIONS)."""
        return traits @ torch.nn.functional.softplus(self.raw).T


def logits(points: torch.Tensor, clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return how much nearer points are to other prototypes than to clean ones."""
    return torch.logsumexp(-torch.cdist(points, other) ** 2, 1) - torch.logsumexp(
        -torch.cdist(points, clean) ** 2, 1
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
    optimiser = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        taken = torch.multinomial(chances, 2 * _BATCH, replacement=True)
        parts = [taken] + [torch.tensor(_episode(members, random)) for _ in range(_EPISODES)]
        points = model(data[torch.cat(parts)])
        known = target[taken]
        some, asked = points[:_BATCH], points[_BATCH : 2 * _BATCH]
        loss = _loss(logits(asked, *_prototypes(some, known[:_BATCH])), known[_BATCH:] > 0)
        few = points[2 * _BATCH :].reshape(_EPISODES, 4, 3, DIMENSIONS)
        middle = few[:, :2].mean(2)
        away = ((few[:, 2:].reshape(_EPISODES, 6, 1, -1) - middle[:, None]) ** 2).sum(-1)
        truth = torch.tensor([0, 0, 0, 1, 1, 1]).expand(_EPISODES, 6) > 0
        loss = loss + _loss((away[..., 0] - away[..., 1]).reshape(-1), truth.reshape(-1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def _prototypes(points: torch.Tensor, classes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of clean points, and of each other class."""
    is_in = torch.nn.functional.one_hot(classes, len(CLASSES)).float()
    every = (is_in.T @ points) / is_in.sum(0)[:, None].clamp(1)
    present = is_in.sum(0) > 0
    return every[:1], every[1:][present[1:]]


def _keys(rows: Rows) -> list[tuple[int, str]]:
    dirty = rows.classes > 0
    return sorted({(int(f), str(a)) for f, a in zip(rows.families[dirty], rows.attacks[dirty], strict=True)})


def _members(rows: Rows, key: tuple[int, str]):
    """Return clean and other rows of one family, form and attack, if they suffice."""
    family, attack = key
    mine = rows.families == family
    dirty = np.flatnonzero(mine & (rows.attacks == attack) & (rows.classes > 0))
    form = rows.forms[dirty[0]]
    clean = np.flatnonzero(mine & (rows.classes == 0) & (rows.forms == form))
    return (clean, dirty) if min(clean.size, dirty.size) >= 4 else None


def _episode(members, random: np.random.Generator) -> NDArray[np.int64]:
    """Return 3 clean and 3 other rows, and again 3 and 3, in that order."""
    clean, dirty = members[random.integers(len(members))]
    first, second = random.permutation(clean), random.permutation(dirty)
    return np.concatenate((first[:3], second[:3], np.resize(first[3:], 3), np.resize(second[3:], 3)))


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
        groups, where, counts = np.unique(rows.groups[mine], return_inverse=True, return_counts=True)
        chances[mine] = 1 / counts[where] / len(groups) * (3 if at == 0 else 1)
    return chances / chances.sum()


def folds(rows: Rows, number: int) -> NDArray[np.int64]:
    """Return the fold of each row: families, of about as many groups each (rule 1)."""
    groups = {at: len(np.unique(rows.groups[rows.families == at])) for at in np.unique(rows.families)}
    filled = [0] * number
    place = {}
    for family in sorted(groups, key=lambda at: -groups[at]):
        fold = filled.index(min(filled))
        place[family] = fold
        filled[fold] += groups[family]
    return np.array([place[at] for at in rows.families])


def held_out_logits(rows: Rows, number: int = 6, seeds: int = 3) -> NDArray[np.float64]:
    """Return the logit of each row by embeddings that have not seen its family."""
    which = folds(rows, number)
    found = np.zeros(len(which))
    for fold in range(number):
        train = rows.some(which != fold)
        models = [fit(train, seed) for seed in range(seeds)]
        found[which == fold] = np.mean([score(model, train, rows.traits[which == fold]) for model in models], 0)
    return found


@torch.no_grad()
def score(model: Embedding, train: Rows, traits: NDArray[np.float64]) -> NDArray[np.float64]:
    clean, other = prototypes_of(model, train)
    points = model(torch.tensor(traits, dtype=torch.float32))
    return logits(points, clean, other).double().numpy()


@torch.no_grad()
def prototypes_of(model: Embedding, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of clean files, and of each other class, groups alike."""
    points = model(torch.tensor(rows.traits, dtype=torch.float32))
    made = []
    for at in range(len(CLASSES)):
        mine = rows.classes == at
        if mine.any():
            weights = torch.tensor(_chances(rows.some(mine)), dtype=torch.float32)
            made.append(weights @ points[torch.tensor(mine)])
    return torch.stack(made[:1]), torch.stack(made[1:])
