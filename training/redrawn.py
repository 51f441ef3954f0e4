"""Draw encrypted low bits of large float32 networks again and again: what is found?

    python training/redrawn.py         # after training/networks.py

A row of eight files is a coarse figure of the chance to find one. This prints the table
of ADR 0028: networks of the training side above three million weights, how many
standard deviations clean and replaced are apart, and how many of the draws are found.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from material import NETWORKS, ZOO, Tensor, items, sources, tensors_of

from safemodel._detector.detector import Detector
from safemodel._detector.statistics import examine

LEAST = 3_000_000
BITS = (16, 15)


def networks(folder: Path, zoo: Path) -> list[list[Tensor]]:
    """Return the float32 weights of each network that is large enough."""
    found = []
    for source in sources(folder, zoo):
        if source.carrier and source.path.stat().st_size >= 4 * LEAST:
            every = tensors_of(source.path)
            floats = [one for one in every
                      if one.role == "weight" and one.dtype == "float32"]  # fmt: skip
            if sum(one.words.size for one in floats) > LEAST:
                found.append(floats)
    return found


def drawn(
    tensors: list[Tensor], bits: int, random: np.random.Generator
) -> list[Tensor]:
    """Return tensors whose low bits are random."""
    made = []
    for one in tensors:
        noise = random.integers(0, 1 << bits, one.words.size, dtype=np.uint32)
        upper = one.words >> np.uint32(bits) << np.uint32(bits)
        made.append(one._replace(words=upper | noise))
    return made


def main() -> None:
    """Print the table, a row a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--networks", type=Path, default=NETWORKS)
    parser.add_argument("--zoo", type=Path, default=ZOO)
    parser.add_argument("-n", "--number", type=int, default=30, metavar="N")
    given = parser.parse_args()
    every = networks(given.networks, given.zoo)
    if not every:
        sys.exit("no network is large enough: run training/networks.py first")
    detector, random = Detector.bundled(), np.random.default_rng(0)
    totals = dict.fromkeys(BITS, 0)
    for tensors in every:
        row = [f"{sum(one.words.size for one in tensors) / 1e6:.1f}"]
        for bits in BITS:
            found, apart = 0, 0.0
            for _ in range(given.number):
                statistics = examine(items(drawn(tensors, bits, random)))
                found += detector.judge(statistics).suspicious
                apart += statistics.uniformity["float32", bits].apart / given.number
            totals[bits] += found
            row += [f"{apart:.1f}", str(found)]
        print("|", " | ".join(row), "|", flush=True)
    number = given.number * len(every)
    print(*(f"X = {bits}: {totals[bits]} of {number}" for bits in BITS), sep="; ")


if __name__ == "__main__":
    main()
