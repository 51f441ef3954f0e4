"""Run the published protocol of the few-shot detector on our networks.

    python training/networks.py                            # the networks, once
    python training/reproduce_xray.py images               # their images, once
    python training/reproduce_xray.py detectors --seconds 3600 [--device cuda]
    python training/reproduce_xray.py page > docs/reproduction.md
    python training/reproduce_xray.py support              # what comes with the package

Detectors are trained in rounds, one row of the CSV for each of them, test set and
classifier, until the time is up; so fewer runs are as balanced as many.
"""

from __future__ import annotations

import argparse
import csv
import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from safemodel._detector.xray import SUPPORT, Settings, XRay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CACHE = Path(__file__).resolve().parents[1] / ".cache"
XS = range(1, 24)
FIELDS = ["setup", "x_hat", "run", "epochs", "loss", "rank_one", "test", "classifier"]
FIELDS += ["clean", "stego", "clean_right", *(f"recall_{x}" for x in XS)]
ACTIVE = {
    "osl": Settings(dropout=True, centred=True, normalise=True),
    "srnet": Settings(network="srnet", batch_norm=True, normalise=True),
}


class Setup(NamedTuple):
    """What is trained, on what, and how often in a round."""

    name: str
    settings: Settings
    zoo: str
    runs: int


SETUPS = (
    Setup("osl", Settings(), "conv", 5),
    Setup("srnet", Settings(network="srnet"), "conv", 1),
    Setup("tiny osl", Settings(), "tiny", 3),
    Setup("osl active", ACTIVE["osl"], "conv", 1),
    Setup("tiny osl active", ACTIVE["osl"], "tiny", 1),
    Setup("srnet active", ACTIVE["srnet"], "conv", 1),
)
Images = dict[str, "NDArray[Any]"]


def jobs_of(rounds: int) -> Iterator[tuple[Setup, int, int]]:
    """Yield what to train, in order: setup, X of training, and run."""
    for turn in range(rounds):
        for setup in SETUPS:
            for i in range(setup.runs):
                for x in XS:
                    yield setup, x, turn * setup.runs + i


def tests_of(setup: Setup, images: Images) -> dict[str, NDArray[np.uint8]]:
    """Return the test sets of the conv detectors: (networks, X, side, side)."""
    from xray_images import TRAINING

    side = setup.settings.side
    kept = ~np.isin(images["conv-names"], TRAINING)
    tests = {
        "conv A": images[f"conv-A-{side}"][kept],
        "other B": images[f"other-B-{side}"],
    }
    if setup.settings.network == "osl":
        tests["other A"] = images[f"other-A-{side}"]
        tests["conv random"] = images[f"conv-random-{side}"][kept]
    tuned = ~np.isin(images["tuned-names"], TRAINING)
    tests["spread"] = images[f"tuned-{side}"][tuned]
    return tests


def train(
    setup: Setup, x: int, run: int, images: Images, device: str
) -> tuple[XRay, dict[str, NDArray[np.uint8]]]:
    """Train one detector, and return it with its test sets."""
    from xray_images import TRAINING

    seed = 1000 * x + run
    side = setup.settings.side
    if setup.zoo == "tiny":
        zoo = images["tiny-100"]
        order = np.random.default_rng(seed).permutation(len(zoo))
        clean, stego, rest = order[:3], order[3:6], order[6:]
        tests = {"tiny A": zoo[rest]}
    else:
        zoo = images[f"conv-A-{side}"]
        names = list(images["conv-names"])
        clean = stego = np.array([names.index(name) for name in TRAINING])
        tests = tests_of(setup, images)
    detector = XRay.train(
        list(zoo[clean, 0]),
        list(zoo[stego, x]),
        setup.settings,
        seed=seed,
        device=device,
    )
    return detector, tests


def measure(detector: XRay, tests: dict[str, Any], x: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each test set and classifier."""
    rank_one = float("nan")
    for name, zoo in tests.items():
        networks, cases = zoo.shape[:2]
        embeddings = detector.embed(zoo.reshape(-1, *zoo.shape[2:]))
        if name in {"conv A", "tiny A"}:
            both = embeddings.unflatten(0, (networks, cases))[:, [0, x]].flatten(0, 1)
            spread = torch.linalg.svdvals((both - both.mean(0)).double()).square()
            rank_one = float(spread[0] / spread.sum())
        for classifier in ("centroid", "nearest"):
            flagged = detector.decide(embeddings, classifier).reshape(networks, cases)
            recall = flagged[:, 1:].mean(0).round(4)
            yield {
                "rank_one": round(rank_one, 6),
                "test": name,
                "classifier": classifier,
                "clean": networks,
                "stego": networks,
                "clean_right": round(1 - float(flagged[:, 0].mean()), 4),
            } | {f"recall_{i}": value for i, value in enumerate(recall, start=1)}


def train_all(
    images: Images, out: Path, *, seconds: float, rounds: int, device: str
) -> None:
    """Train detectors until the time is up, and add their rows to a CSV.

    What the CSV has already is not trained again.
    """
    began = time.perf_counter()
    there = set()
    if out.exists():
        with out.open(newline="", encoding="utf-8") as file:
            there = {(r["setup"], r["x_hat"], r["run"]) for r in csv.DictReader(file)}
    with out.open("a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not there:
            table.writeheader()
        done = 0
        for setup, x, run in jobs_of(rounds):
            if (setup.name, str(x), str(run)) in there:
                continue
            if time.perf_counter() - began > seconds:
                break
            detector, tests = train(setup, x, run, images, device)
            told = {"setup": setup.name, "x_hat": x, "run": run}
            told |= {"epochs": detector.epochs, "loss": round(detector.loss, 6)}
            table.writerows(told | row for row in measure(detector, tests, x))
            done += 1
            if x == XS[-1]:
                file.flush()
                spent = time.perf_counter() - began
                print(f"{spent:6.0f} s  {done} detectors, {setup.name}", flush=True)


def main() -> None:
    """Do the step that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("step", choices=["images", "detectors", "page", "support"])
    parser.add_argument("--networks", type=Path, default=CACHE / "networks")
    parser.add_argument("--images", type=Path, default=CACHE / "xray-images.npz")
    parser.add_argument("--detectors", type=Path, default=CACHE / "xray-detectors.csv")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-j", "--jobs", type=int, default=2)
    parser.add_argument("--tiny", type=int, default=60, help="networks of that zoo")
    asked = parser.parse_args()
    if asked.step == "images":
        from xray_images import make

        np.savez(asked.images, **make(asked.networks, asked.jobs, asked.tiny))
    elif asked.step == "support":
        from xray_images import support

        np.save(SUPPORT, support(asked.networks))
        print(f"pin this in the code: {sha256(SUPPORT.read_bytes()).hexdigest()}")
    elif asked.step == "detectors":
        torch.backends.cudnn.benchmark = True
        with np.load(asked.images) as file:
            images = dict(file)
        train_all(
            images,
            asked.detectors,
            seconds=asked.seconds,
            rounds=asked.rounds,
            device=asked.device,
        )
    else:
        from xray_page import page

        print(page(asked.detectors), end="")


if __name__ == "__main__":
    main()
