"""Measure what scrubbing removes and what it costs; write it into docs/scrub.md.

Run it from anywhere: ``python tools/scrub_accuracy.py`` (a few minutes, one thread).
It trains a small convolutional network and a perceptron on the digits beside the
checkout, and measures

- the accuracy of each before and after ``Scrub(bits="auto")``, by method;
- what is left of random bits hidden in the weights of the first, after each method and
  after two published defences, written again here from their descriptions.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from torch import nn

from safemodel.evaluation import payload_recovery
from safemodel.scrub import Scrub, scrub_array
from tests import embedding

if TYPE_CHECKING:
    from collections.abc import Callable

Method = Literal["random", "zero", "round"]
PAGE = ROOT / "docs" / "scrub.md"
DIGITS = ROOT.parent / "shared" / "datasets" / "mnist.npz"
METHODS: tuple[Method, ...] = ("random", "zero", "round")
BITS = 12
# The last two are there to show that a cost would be seen.
SCRUBS = (*(Scrub(method=method) for method in METHODS), Scrub(bits=20), Scrub(bits=23))
DRAWS = 10
COPIES = 61
BATCH = 100
Words = np.ndarray[Any, np.dtype[np.uint32]]


def digits(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images in [0, 1] and their labels."""
    with np.load(DIGITS) as data:
        images, labels = data[f"{part}_images"], data[f"{part}_labels"]
    scaled = torch.from_numpy(images).float().div(255).unsqueeze(1)
    return scaled, torch.from_numpy(labels).long()


def convolutional() -> nn.Module:
    """Return two convolutions with batch norms, and two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 96),
        nn.ReLU(),
        nn.Linear(96, 10),
    )


def perceptron() -> nn.Module:
    """Return three linear layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def train(model: nn.Module, epochs: int) -> None:
    """Train on all training digits, in an order of its own each epoch."""
    images, labels = digits("train")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        rate.step()
        print(f"  epoch {epoch + 1} of {epochs}: loss {loss.item():.4f}", flush=True)
    model.eval()


def outputs(model: nn.Module) -> torch.Tensor:
    """Return the ten outputs of a model for each test image."""
    images, _ = digits("test")
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(1000)])


def scrubbed(state: dict[str, torch.Tensor], scrub: Scrub) -> dict[str, torch.Tensor]:
    """Return a copy of every tensor, the floats of it scrubbed."""
    copy = {name: tensor.clone() for name, tensor in state.items()}
    for tensor in copy.values():
        scrub_array(tensor.numpy(), str(tensor.dtype).removeprefix("torch."), scrub)
    return copy


def accuracy_rows(name: str, model: nn.Module) -> list[str]:
    """Return a table row for each scrub: accuracy in percent, before and after."""
    _, labels = digits("test")
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    before = outputs(model)
    right = percent(before, labels)
    rows = []
    for scrub in SCRUBS:
        found = []
        for _ in range(DRAWS if scrub.method == "random" else 1):
            model.load_state_dict(scrubbed(state, scrub))
            now = outputs(model)
            after = percent(now, labels)
            changed = int((now.argmax(1) != before.argmax(1)).sum())
            found.append(
                (abs(after - right), changed, after, float((now - before).abs().max()))
            )
        _, changed, after, moved = max(found)
        bits = f"{'auto, ' if scrub.bits == 'auto' else ''}{scrub.bits_for('float32')}"
        rows.append(
            f"| {name} | `{scrub.method}` | {bits} | {right:.2f} | {after:.2f} "
            f"| {after - right:+.2f} | {changed:,} | {moved:.2g} |"
        )
    model.load_state_dict(state)
    return rows


def percent(found: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how many images are seen as what they are."""
    return 100 * float((found.argmax(1) == labels).double().mean())


def random_positions(words: Words, k: int) -> Words:
    """Return words with k random low bits redrawn, as a published defence does it.

    Positions count from the lowest bit and are drawn as floor(Exp(mean 2)) plus the
    number of zeros the mantissa starts with, until k different ones are found.
    """
    draw = np.random.default_rng()
    mantissa = (words & np.uint32(0x7FFFFF)).astype(np.int64)
    zeros = 22 - np.floor(np.log2(np.maximum(mantissa, 0.5))).astype(np.int64)
    wanted = np.minimum(k, 23 - zeros)
    chosen = np.zeros_like(words)
    count = np.zeros(words.size, np.int64)
    todo = np.flatnonzero(count < wanted)
    while todo.size:
        at = np.floor(draw.exponential(2, todo.size)).astype(np.int64) + zeros[todo]
        bit = np.uint32(1) << np.minimum(at, 31).astype(np.uint32)
        new = (at < 23) & (chosen[todo] & bit == 0)
        chosen[todo[new]] |= bit[new]
        count[todo[new]] += 1
        todo = todo[count[todo] < wanted[todo]]
    noise = draw.integers(0, 1 << 32, words.size, np.uint32)
    return (words & ~chosen) | (noise & chosen)


def by_scrub(method: Method) -> Callable[[Words], Words]:
    """Return a defence: our own, with a number of bits."""

    def defend(words: Words) -> Words:
        copy = words.copy()
        scrub_array(copy, "float32", Scrub(bits=BITS, method=method))
        return copy

    return defend


def defences() -> dict[str, Callable[[Words], Words]]:
    """Return every defence of the table by name."""
    found: dict[str, Callable[[Words], Words]] = {"none": lambda words: words.copy()}
    found |= {f"scrub, `{method}`": by_scrub(method) for method in METHODS}
    for k in (1, 5, 10):
        found[f"random positions, k = {k}"] = lambda words, k=k: random_positions(
            words, k
        )
    return found


def payload_rows(model: nn.Module) -> list[str]:
    """Return a table row for each defence and each way to hide bits in weights."""
    floats = [t for t in model.state_dict().values() if t.dtype == torch.float32]
    cover = torch.cat([tensor.reshape(-1) for tensor in floats]).numpy()
    rows = []
    for defence, defend in defences().items():
        for kind, embed in embedding.KINDS.items():
            words = cover.view(np.uint32).copy()
            extra = {"copies": COPIES} if kind == "coded" else {}
            payload, positions, copies = embed(words, BITS, **extra)
            after = defend(words)
            rows.append(row(defence, kind, words, after, payload, positions, copies))
    rows.append(quantised_row(model))
    return rows


def row(
    defence: str,
    kind: str,
    before: Words,
    after: Words,
    payload: bytes,
    positions: Any = None,
    copies: int = 1,
) -> str:
    """Return one row of the payload table."""
    left = payload_recovery(
        before, after, payload, bits=BITS, positions=positions, copies=copies
    )
    comes_out = "yes" if left.recovered else f"no, {left.decoded_error_rate:.1%} wrong"
    # Of bits that carry nothing, what is measured is above 0 by what chance leaves.
    capacity = left.capacity if left.capacity_low else 0.0
    return (
        f"| {defence} | {kind} | {left.bits:,} | {left.bit_error_rate:.4f} "
        f"| {capacity:.2%} | {left.capacity_high:.2%} | {comes_out} |"
    )


def quantised_row(model: nn.Module) -> str:
    """Return the row of dynamic quantisation: what it does to a convolution."""
    words = model[4].weight.detach().numpy().reshape(-1).view(np.uint32)
    payload, positions, copies = embedding.contiguous(words, BITS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves it to a package of its own
        quantised = torch.ao.quantization.quantize_dynamic(model, dtype=torch.qint8)
    after = quantised[4].weight.detach().numpy().reshape(-1).view(np.uint32)
    name = "dynamic int8"
    return row(name, "in a convolution", words, after, payload, positions, copies)


def put(page: str, name: str, rows: list[str]) -> str:
    """Return the page with the rows of a table in the place of those it had."""
    start, end = f"<!-- {name}: written by the tool -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = page.partition(start)
    old, _, after = rest.partition(end)
    head = "\n".join(old.splitlines()[:2])
    return "\n".join([before + start + head, *rows, end + after])


def main() -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    accuracy, payloads = [], []
    for name, make, epochs in (
        ("convolutional", convolutional, 4),
        ("perceptron", perceptron, 8),
    ):
        print(name)
        model = make()
        train(model, epochs)
        accuracy += accuracy_rows(name, model)
        if name == "convolutional":
            payloads = payload_rows(model)
        print("\n".join(accuracy))
    print("\n".join(payloads))
    page = PAGE.read_text(encoding="utf-8")
    page = put(page, "payloads", payloads)
    PAGE.write_text(put(page, "accuracy", accuracy), encoding="utf-8")


if __name__ == "__main__":
    main()
