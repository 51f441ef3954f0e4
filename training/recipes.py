"""The training runs: what is trained on what, how, and what is made of the result.

A run is a group: what is cast or fine-tuned from its network belongs to it. No two runs
share a seed, an initial weight or an order of batches.
"""

from __future__ import annotations

from typing import NamedTuple


class Run(NamedTuple):
    """One training run."""

    name: str
    architecture: str
    width: int
    task: str
    optimiser: str  # "sgd", "adam" or "adamw"
    steps: int
    seed: int
    dtype: str = "float32"
    initialiser: str = "default"
    casts: tuple[str, ...] = ()  # "bfloat16", "float16"
    tuned: bool = False  # and a fine-tuned copy, with and without a hidden payload
    checkpoint: bool = False  # and a .pt with the optimiser's state


TABLE = """
mlp           64    mnist        sgd    600  default     .
mlp           128   mnist        adam   600  default     cast
mlp           256   mnist        adamw  500  default     tuned
mlp           320   rotation     sgd    500  kaiming     cast,tuned
mlp           512   mnist        sgd    400  xavier      tuned
mlp           512   shapes       adam   300  default     pt
mlp           768   mnist        adam   300  truncated   cast
mlp           1024  rotation     adamw  250  default     tuned
mlp           1024  teacher      sgd    400  default     tuned,cast
mlp           1700  mnist        adam   200  default     tuned
mlp           1800  mnist        sgd    200  orthogonal  cast
mlp           1900  shapes       adamw  160  default     tuned
mlp           256   teacher      adam   800  uniform     pt
cnn           16    mnist        sgd    500  default     cast,tuned
cnn           24    mnist        adam   400  default     tuned
cnn           32    rotation     adamw  300  kaiming     .
cnn           32    shapes       sgd    300  default     tuned
cnn           40    mnist        adamw  250  default     tuned,cast,pt
cnn           64    shapes       adam   120  orthogonal  .
cnn           64    mnist        sgd    120  xavier      tuned
cnn           80    rotation     adam   90   default     tuned
cnn-bn        12    mnist        sgd    600  default     cast,pt
cnn-bn        16    shapes       adam   500  default     tuned
cnn-bn        24    mnist        adamw  400  kaiming     cast,tuned
cnn-bn        32    mnist        sgd    300  default     tuned
cnn-bn        32    rotation     adam   300  xavier      .
cnn-bn        48    shapes       sgd    180  default     cast,tuned
cnn-bn        64    mnist        adam   120  default     tuned
cnn-bn        72    rotation     adamw  100  truncated   .
cnn-bn        80    mnist        sgd    90   default     tuned
mobilenet     32    mnist        sgd    400  default     cast
mobilenet     48    shapes       adam   250  default     tuned,pt
mobilenet     64    mnist        adamw  180  default     cast,tuned
mobilenet     96    rotation     sgd    110  kaiming     tuned
mobilenet     128   mnist        adam   80   default     tuned
mobilenet     160   shapes       adamw  50   default     .
resnet        20    mnist        adam   400  default     cast
resnet        28    rotation     sgd    400  default     tuned
resnet        24    mnist        sgd    300  kaiming     tuned,cast
resnet        32    shapes       adamw  200  default     .
resnet        48    mnist        adam   140  default     tuned,pt
resnet        64    rotation     adamw  100  default     tuned
transformer   64    mnist        adam   400  default     tuned
transformer   64    waves        adamw  300  xavier      cast
transformer   96    markov       adam   150  default     pt
transformer   128   shapes       adamw  250  truncated   tuned,cast
transformer   128   markov       sgd    150  default     .
transformer   192   mnist        adamw  120  default     tuned
transformer   256   mnist        adam   80   default     cast,tuned
transformer   320   shapes       sgd    60   default     tuned
transformer   384   markov       adamw  30   truncated   .
lstm          128   waves        adam   400  default     tuned
lstm          128   mnist        sgd    250  default     cast
lstm          256   mnist        adam   100  default     tuned
lstm          256   markov       adamw  80   xavier      cast,pt
lstm          512   mnist        adamw  40   default     tuned
lstm          768   waves        sgd    25   default     .
gru           144   mnist        adam   300  default     cast
gru           128   waves        sgd    250  orthogonal  tuned
gru           256   markov       adam   80   default     .
gru           320   mnist        adamw  70   default     tuned
gru           640   shapes       adam   30   default     cast
autoencoder   128   copy-mnist   adam   500  default     cast
autoencoder   512   copy-mnist   sgd    400  default     tuned
autoencoder   1024  copy-shapes  adamw  250  kaiming     tuned
autoencoder   2600  copy-mnist   adam   120  default     .
conv-autoencoder 16 copy-mnist   adam   200  default     tuned,pt
conv-autoencoder 32 copy-shapes  sgd    100  default     cast
conv-autoencoder 96 copy-mnist   adamw  40   default     tuned
mlp           256   mnist        sgd    400  default     bfloat16
mlp           512   shapes       adam   200  default     bfloat16
cnn           24    mnist        adamw  150  default     bfloat16
cnn-bn        24    mnist        sgd    150  default     bfloat16
transformer   128   mnist        adamw  100  default     bfloat16
autoencoder   512   copy-mnist   adam   150  default     bfloat16
mlp           512   mnist        sgd    200  default     float16
autoencoder   256   copy-shapes  sgd    300  kaiming     float16
mlp           2000  mnist        adamw  200  default     .
mlp           1700  rotation     sgd    250  kaiming     .
cnn           88    shapes       sgd    90   default     .
cnn           96    mnist        adam   70   xavier      .
cnn-bn        88    shapes       adam   80   kaiming     .
cnn-bn        84    rotation     adamw  80   default     .
resnet        112   mnist        sgd    50   default     .
resnet        108   shapes       adam   45   default     .
transformer   400   mnist        sgd    40   default     .
lstm          900   mnist        adam   15   default     .
gru           1056  waves        adamw  15   default     .
autoencoder   2400  copy-shapes  sgd    150  default     .
mobilenet     256   mnist        adamw  30   default     .
conv-autoencoder 176 copy-mnist  adam   25   default     .
"""
"""Architecture, width, task, optimiser, steps, initialiser, and what else is made."""

AGAIN = 500
"""What is added to a seed for a second network of a recipe: clean ones set thresholds,
and more of them set better ones."""
HELD_OUT = 2000
"""What is added to a seed for a network that detectors are measured on."""


def default_runs() -> list[Run]:
    """Return the runs of the default set, those of other families next to each other.

    A set that was cut short has then all families in it.
    """
    runs = []
    for seed, line in enumerate(TABLE.strip().splitlines(), start=100):
        architecture, width, task, optimiser, steps, initialiser, more = line.split()
        extras = set(more.split(","))
        runs.append(
            Run(
                name=f"{architecture}-{width}-{task}-{optimiser}-{seed}",
                architecture=architecture,
                width=int(width),
                task=task,
                optimiser=optimiser,
                steps=int(steps),
                seed=seed,
                dtype=next(iter(extras & {"bfloat16", "float16"}), "float32"),
                initialiser=initialiser,
                casts=("bfloat16", "float16") if "cast" in extras else (),
                tuned="tuned" in extras,
                checkpoint="pt" in extras,
            )
        )
    return [run for i in range(8) for run in runs[i::8]]


def again_runs() -> list[Run]:
    """Return the same runs with other seeds: clean files to train on."""
    return _with_other_seeds(AGAIN)


def held_out_runs() -> list[Run]:
    """Return the same runs with other seeds, which no detector is trained on."""
    return _with_other_seeds(HELD_OUT)


def _with_other_seeds(added: int) -> list[Run]:
    """Return the runs with other initial weights, other data and in another order."""
    return [
        run._replace(
            name=f"{run.name.rpartition('-')[0]}-{run.seed + added}",
            seed=run.seed + added,
        )
        for run in default_runs()
    ]


def quick_runs() -> list[Run]:
    """Return a few short runs, one of each family: for tests, and to try the script."""
    chosen = {"mlp", "cnn-bn", "mobilenet", "transformer", "lstm", "gru", "autoencoder"}
    runs = []
    for run in sorted(default_runs(), key=lambda run: run.width):
        if run.architecture in chosen and run.dtype == "float32":
            chosen.remove(run.architecture)
            runs.append(
                run._replace(
                    name=f"quick-{run.name}",
                    steps=20,
                    seed=run.seed + 1000,
                    casts=("bfloat16",),
                    tuned=run.architecture == "mlp",
                    checkpoint=run.architecture == "cnn-bn",
                )
            )
    return runs
