"""Fit the score of the test for spread spectrum, and say how well it tells.

    python training/fit_spread.py --networks .cache/networks --zoo ../shared/zoo

Clean files are the networks of `networks.py`, with casts and fine-tuned copies, files
of `train` repositories of the zoo, and layers of `initialised.py`. Attacked are the
networks that were fine-tuned after the attack, and copies that are made here. What is
printed goes into `safemodel/_detector/spread_score.py`. Each figure is of groups that
the fit of it has not seen: training runs and repositories, in ten folds.
"""

from __future__ import annotations

import argparse
import csv
import zlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from initialised import INITIALISED, TRAIN, of_initialised
from source import DRAWN

from safemodel._detector.layouts import FLOATS
from safemodel._detector.spread_fit import HOPELESS
from safemodel._detector.spread_samples import Sampler
from safemodel._detector.spread_score import features, noise_of
from safemodel._detector.weights import weights_of_file, weights_of_mapping
from safemodel.errors import SafeModelError
from safemodel.evaluation import stego

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from safemodel._detector.spread_fit import Noise
    from safemodel._detector.weights import Weights

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.15, 0.4, 0.8)
"""Of what a network can hold, in the copies that are made here."""
GAMMA = 9e-4
FOLDS = 10
RIDGE = 1e-2
TAIL = 0.95
"""Clean groups beyond which the distribution of scores is continued."""
COUNTS = {"net": 1.0, "zoo": 0.7, DRAWN: 0.3}
"""How much files of each source count."""


class Row(NamedTuple):
    """A file: where it is from, what was done to it, and what is found."""

    source: str
    group: str
    name: str
    kind: str
    attacked: bool
    noise: Noise | None


def noise(items: Iterable[Weights]) -> Noise | None:
    """Return what is found in weights."""
    sampler = Sampler()
    for item in items:
        sampler.take(item)
    return noise_of(sampler)


def attacked(path: Path, gamma: float) -> Iterator[tuple[float, Noise | None]]:
    """Yield what is found in copies of a file with payloads of several sizes."""
    arrays: dict[str, Any] = {}
    pieces: dict[str, list[Any]] = {}
    for item in weights_of_file(path):
        if item.dtype == "float32" and item.role == "weight":
            pieces.setdefault(item.name, []).append(item.bits)
            arrays[item.name] = item.shape
    for name, shape in arrays.items():
        arrays[name] = np.concatenate(pieces[name]).view(np.float32).reshape(shape)
    seed = zlib.crc32(f"{path.name} {gamma}".encode()) >> 8
    method = stego.SpreadSpectrum(gamma=gamma, sampled=True, seed=seed)
    try:
        room = stego.capacity(arrays, method) // 8
    except ValueError:
        return
    for share in SHARES:
        if room * share >= 1:
            data = bytes(int(room * share))
            made, _ = stego.embed(arrays, data, method)
            yield share, noise(weights_of_mapping(made))


class File(NamedTuple):
    """A file that is looked at, and what of it is."""

    path: Path
    source: str
    group: str
    name: str
    kind: str
    hit: bool
    copied: bool
    gamma: float


def networks(folder: Path, gamma: float) -> Iterator[File]:
    """Yield the networks trained by `networks.py`."""
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        listed = [row for row in csv.DictReader(file) if row["kind"] != "checkpoint"]
    for row in listed:
        hit, kind = bool(row["attack"]), row["kind"]
        if not hit or gamma == GAMMA:
            copied = kind == "trained" and row["dtype"] == "float32"
            path = folder / row["file"]
            named = (row["group"], row["file"])
            yield File(path, "net", *named, kind, hit, copied, gamma)


def zoo(folder: Path, gamma: float) -> Iterator[File]:
    """Yield the files of repositories that are for training."""
    with (ROOT / "training" / "split.csv").open(encoding="utf-8") as file:
        side = {row["repo"]: row["side"] for row in csv.DictReader(file)}
    with (folder / "manifest.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if side.get(row["repo"]) == "train":
                path = folder / row["file"]
                named = (row["repo"], row["path"])
                yield File(path, "zoo", *named, "real", False, True, gamma)


def drawn(folder: Path, gamma: float) -> Iterator[File]:
    """Yield layers that were never trained."""
    for one in of_initialised(0, TRAIN, folder):
        yield File(one.path, DRAWN, one.group, one.name, DRAWN, False, False, gamma)


def rows_of(file: File) -> list[Row]:
    """Return the rows of a file and its attacked copies; none of one unreadable."""
    try:
        kinds = {item.dtype for item in weights_of_file(file.path)}
    except SafeModelError:
        return []
    if not kinds & set(FLOATS):
        return []
    named = (file.source, file.group, file.name)
    rows = [Row(*named, file.kind, file.hit, noise(weights_of_file(file.path)))]
    if file.copied:
        for share, found in attacked(file.path, file.gamma):
            rows.append(Row(*named, f"share {share}", True, found))
    return rows


def fit(
    x: NDArray[Any], y: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[Any], float]:
    """Return the weights and the offset of a logistic regression with a ridge."""
    middle, spread = x.mean(0), x.std(0) + 1e-9
    z = np.column_stack(((x - middle) / spread, np.ones(len(x))))
    ridge = np.eye(z.shape[1]) * RIDGE * weight.sum()
    ridge[-1, -1] = 1e-6
    found = np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(z @ found, -30, 30)))
        slope = z.T @ (weight * (p - y)) + ridge @ found
        bend = (z * (weight * p * (1 - p) + 1e-9)[:, None]).T @ z + ridge
        found = found - np.linalg.solve(bend, slope)
    factors = found[:-1] / spread
    return factors, float(found[-1] - factors @ middle)


def weights_of_rows(rows: list[Row]) -> NDArray[Any]:
    """Return how much each row counts: groups alike, and both classes."""
    classes = [(row.source, row.attacked) for row in rows]
    groups = [(row.source, row.attacked, row.group) for row in rows]
    number = {one: len({g[2] for g in groups if g[:2] == one}) for one in set(classes)}
    found = np.array(
        [
            COUNTS[one[0]] / number[one] / groups.count(group)
            for one, group in zip(classes, groups, strict=True)
        ]
    )
    scaled: NDArray[Any] = found * len(rows) / found.sum()
    return scaled


def unseen_scores(rows: list[Row]) -> NDArray[Any]:
    """Return the score of each row by a fit that has not seen its group."""
    x = np.array([features(row.noise) for row in rows if row.noise])
    y = np.array([row.attacked for row in rows], float)
    weight = weights_of_rows(rows)
    groups = sorted({row.group for row in rows})
    order = np.random.default_rng(0).permutation(len(groups)) % FOLDS
    fold = np.array([order[groups.index(row.group)] for row in rows])
    scores = np.zeros(len(rows))
    for at in range(FOLDS):
        seen = fold != at
        factors, offset = fit(x[seen], y[seen], weight[seen])
        scores[~seen] = x[~seen] @ factors + offset
    gains = np.array([row.noise.gain for row in rows if row.noise])
    hopeless: NDArray[Any] = np.where(gains < HOPELESS, -10.0, scores)
    return hopeless


def tail(rows: list[Row], scores: NDArray[Any]) -> tuple[float, float, float]:
    """Return where the tail of clean groups begins, its part, and its mean."""
    most: dict[str, float] = {}
    for row, score in zip(rows, scores, strict=True):
        if not row.attacked:
            most[row.group] = max(most.get(row.group, -99.0), float(score))
    values = np.sort(list(most.values()))
    start = float(np.quantile(values, TAIL))
    above = values[values > start]
    return start, above.size / values.size, float((above - start).mean())


def report(rows: list[Row], scores: NDArray[Any], thresholds: Iterable[float]) -> None:
    """Print how many files of each kind are above thresholds."""
    kinds = sorted({(row.source, row.kind, row.attacked) for row in rows})
    for source, kind, hit in kinds:
        chosen = [
            i for i, row in enumerate(rows)
            if (row.source, row.kind, row.attacked) == (source, kind, hit)
        ]  # fmt: skip
        counts = [f"{t:.2f}: {int((scores[chosen] > t).sum())}" for t in thresholds]
        name = f"{source} {kind}{' attacked' if hit else ' clean'}"
        print(f"{name:40} {len(chosen):4} files, above " + ", ".join(counts))


def main() -> None:
    """Fit, and print what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--networks", type=Path, default=ROOT / ".cache" / "networks")
    parser.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo")
    parser.add_argument("--initialised", type=Path, default=INITIALISED)
    parser.add_argument("--gamma", type=float, default=GAMMA)
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N")
    arguments = parser.parse_args()
    files = list(networks(arguments.networks, arguments.gamma))
    files += drawn(arguments.initialised, arguments.gamma)
    if arguments.zoo.is_dir():
        files += zoo(arguments.zoo, arguments.gamma)
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        every = [row for rows in pool.map(rows_of, files, chunksize=4) for row in rows]
    rows = [row for row in every if row.noise is not None]
    print(f"{len(every)} files, of which {len(rows)} are large enough")
    scores = unseen_scores(rows)
    x = np.array([features(row.noise) for row in rows if row.noise])
    y = np.array([row.attacked for row in rows], float)
    factors, offset = fit(x, y, weights_of_rows(rows))
    print(
        "weights", [round(float(one), 3) for one in factors], "offset", round(offset, 3)
    )
    start, part, mean = tail(rows, scores)
    print(f"tail from {start:.3f}, part {part:.3f}, mean {mean:.3f}")
    log_p = np.log(part) - (scores - start) / mean
    report(rows, scores, (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0))
    print("p-values for a file with three tests, corrected, below 0.01 and 0.001:")
    report(rows, -log_p - np.log(33), (-np.log(0.01), -np.log(0.001)))
    clean = [i for i in np.argsort(-scores) if not rows[i].attacked]
    for i in clean[:15]:
        print(f"{scores[i]:6.2f} {rows[i].group} {rows[i].name}")


if __name__ == "__main__":
    main()
