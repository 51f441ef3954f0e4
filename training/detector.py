"""Train the bundled detector, and write the figures of MODEL_CARD.md.

    python training/networks.py        # first: the networks it is trained on
    python training/detector.py        # what is computed already is not computed again

Writes `safemodel/_detector/prototypes.safetensors`, its SHA-256 where it is checked,
and the tables between the marks of MODEL_CARD.md. Nothing here opens a file of a
repository whose side is `test`.
"""

from __future__ import annotations

import argparse
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from figures import (
    held_out,
    table_of_adaptation,
    table_of_alarms,
    table_of_rows,
    thresholds_of,
)
from material import (
    ATTACKS,
    NETWORKS,
    PACKAGES,
    ZOO,
    applies,
    collect,
    sample,
    sources,
    version,
)
from prototypes import Rows, fit, prototypes_of, rows_of

from safemodel._detector import prototype_file
from safemodel._detector.prototypes import DIMENSIONS, Arrays, Prototypes

if TYPE_CHECKING:
    from figures import HeldOut
    from material import Sample
    from source import Source

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "detector"
CARD = HERE.parent / "MODEL_CARD.md"
P_VALUE_RATE = 1e-3
_MARKS = re.compile(r"(<!-- figures -->\n).*(<!-- end of figures -->)", re.DOTALL)
_PIN = re.compile(r'(BUNDLED_SHA256 = )"[0-9a-f]*"')


def computed(files: list[Source], jobs: int, cache: Path) -> list[Sample]:
    """Return what the tests say of files and all attacks; compute what is missing."""
    cache.mkdir(parents=True, exist_ok=True)
    todo = [
        (file, attack) for attack in ATTACKS for file in files if applies(file, attack)
    ]
    parts = [todo[at::jobs] for at in range(jobs)]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(collect, cache=cache), parts))
    made = [sample(file, attack, cache) for file, attack in todo]
    return [one for one in made if one is not None]


def trained(rows: Rows, found: HeldOut) -> Prototypes:
    """Return the judge of all rows, with the thresholds of held-out ones."""
    model = fit(rows, seed=0)
    with torch.no_grad():
        clean, other = prototypes_of(model, rows)
        embedding = model.weights()
    judge = Prototypes(
        Arrays(
            embedding=embedding.double().numpy(),
            clean=clean[0].double().numpy(),
            other=other.double().numpy(),
            thresholds=found.thresholds,
            rates=np.array([P_VALUE_RATE, found.rate, found.own_rate]),
            way=np.array([found.way]),
            own=np.zeros((2, DIMENSIONS)),
        )
    )
    # The embedding of all rows is another one than those of the folds: no clean row
    # may be above its thresholds, either.
    points = rows.traits @ judge.arrays.embedding.T
    own = np.array([judge.logit(point)[0] for point in points])
    highest, _ = thresholds_of(rows, own, rows.clean)
    return Prototypes(
        judge.arrays._replace(thresholds=np.maximum(found.thresholds, highest))
    )


def main() -> None:
    """Train, measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--networks", type=Path, default=NETWORKS)
    parser.add_argument("--zoo", type=Path, default=ZOO)
    parser.add_argument("--packages", type=Path, default=PACKAGES)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("-j", "--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cache = given.cache / version()
    files = sources(given.networks, given.zoo, given.packages)
    samples = computed(files, given.jobs, cache)
    if not samples:
        sys.exit("no file to train on: run training/networks.py first")
    rows = rows_of(samples)
    found = held_out(rows)
    text = "\n".join((table_of_alarms(rows, found), table_of_rows(rows, found),
                      table_of_adaptation(rows, found)))  # fmt: skip
    print(text)
    judge = trained(rows, found)
    print(judge.id, judge.arrays.thresholds, judge.arrays.rates, judge.arrays.way)
    if given.dry_run:
        return
    prototype_file.write(judge, prototype_file.BUNDLED)
    pin = sha256(prototype_file.BUNDLED.read_bytes()).hexdigest()
    module = Path(prototype_file.__file__)
    module.write_text(_PIN.sub(rf'\g<1>"{pin}"', module.read_text()))
    if CARD.exists():
        CARD.write_text(_MARKS.sub(rf"\g<1>{text}\n\g<2>", CARD.read_text()))


if __name__ == "__main__":
    main()
