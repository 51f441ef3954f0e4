"""Files that `detect` is measured on: whose they are, and their weights in other forms.

Rules:

1. A *group* is the owner of repositories or packages, a training run, or one layer and
   one way to draw it: files of one group are never independent. Of each owner the two
   largest files that can be read carry attacks.
2. Networks are those of `training/networks.py`; for the test side `--held-out`, whose
   seeds no detector was trained on. So it is with layers that were never trained.
3. Forms are made as a user would make them: a cast of all float32 weights.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from safemodel._detector.opening import opened
from safemodel.errors import SafeModelError

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ROOT / "training"
sys.path.append(str(TRAINING))  # no package, as this folder is none

from initialised import INITIALISED, TRAIN, of_initialised
from packages import PACKAGES
from recipes import HELD_OUT
from source import CARRIERS, LEAST_WORDS, Source, of_packages
from split import owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Side: TypeAlias = Literal["train", "test"]
ZOO = ROOT.parent / "shared" / "zoo"
NETWORKS: dict[Side, Path] = {
    "train": ROOT / ".cache" / "networks",
    "test": ROOT / ".cache" / "networks-held-out",
}
MOST_WORDS = 8_000_000
"""Weights of a file that carry an attack; the tensors behind are left out."""


class Tensor(NamedTuple):
    """The words of a tensor.

    Attributes:
        name: Its path.
        dtype: Torch's name of its dtype.
        words: All of them, unsigned.
        role: What it is for.
        shape: Lengths of its axes.
    """

    name: str
    dtype: str
    words: NDArray[Any]
    role: str
    shape: tuple[int, ...]


def files(
    side: Side,
    networks: Path,
    zoo: Path,
    packages: Path = PACKAGES,
    drawn: Path = INITIALISED,
) -> list[Source]:
    """Return the files of a side; those of the other are not looked at."""
    first = HELD_OUT if side == "test" else 0
    return [
        *_of_zoo(side, zoo), *of_packages(side, packages), *_of_networks(networks),
        *of_initialised(first, TRAIN, drawn),
    ]  # fmt: skip


def _of_zoo(side: Side, zoo: Path) -> Iterator[Source]:
    sides = {row["repo"]: row["side"] for row in _rows(TRAINING / "split.csv")}
    rows = [row for row in _rows(zoo / "manifest.csv")
            if sides[row["repo"]] == side and row["role"] == "weights"]  # fmt: skip
    rows.sort(key=lambda row: (-int(row["params_float32"] or 0), row["file"]))
    seen: dict[str, int] = {}
    for row in rows:
        group = owner(row["repo"])
        path, number = zoo / row["file"], seen.get(group, 0)
        large = int(row["params_float32"] or 0) >= LEAST_WORDS
        carrier = large and number < CARRIERS and _is_read(path)
        seen[group] = number + carrier
        name = f"{row['repo']} {row['sha256'][:8]}"
        yield Source(name, path, group, row["family"], "zoo", "", carrier)


def _of_networks(folder: Path) -> Iterator[Source]:
    if not (folder / "manifest.csv").is_file():
        return
    for row in _rows(folder / "manifest.csv"):
        trained = row["kind"] == "trained" and row["dtype"] == "float32"
        large = int(row["params"]) >= LEAST_WORDS
        yield Source(row["file"], folder / row["file"], row["group"],
                     row["architecture"], row["kind"], row["attack"],
                     trained and large)  # fmt: skip


def _is_read(path: Path) -> bool:
    """Return whether a file is of a kind that is read; its weights are not."""
    try:
        with opened(path):
            return True
    except (SafeModelError, ValueError):
        return False


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tensors_of(path: Path) -> list[Tensor]:
    """Return the first tensors of a file; none if it is of no kind that is read."""
    found: list[Tensor] = []
    parts: list[NDArray[Any]] = []
    words = 0
    try:
        with opened(path) as file:
            for item in file.weights():
                parts.append(item.bits)
                if item.start + item.bits.size < item.size:
                    continue
                joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
                parts = []
                if words + joined.size <= MOST_WORDS and item.role != "slack":
                    words += joined.size
                    found.append(
                        Tensor(item.name, item.dtype, joined, item.role, item.shape)
                    )
    except (SafeModelError, ValueError):
        return []
    return found


def formed(tensors: list[Tensor], form: str) -> list[Tensor]:
    """Return tensors in another form (rule 3): "as-is", or a name of `_CASTS`.

    Others than float32 are left out of a form.
    """
    if form == "as-is":
        return tensors
    return [
        one
        for tensor in tensors
        if tensor.dtype == "float32" and (one := _cast(tensor, form)) is not None
    ]


def _cast(tensor: Tensor, form: str) -> Tensor | None:
    values = tensor.words.view(np.float32)
    if form == "int8":
        if len(tensor.shape) < 2:
            return None  # biases are not quantised
        with np.errstate(invalid="ignore"):
            scale = float(np.abs(np.nan_to_num(values)).max(initial=0.0)) / 127 + 1e-30
            levels = np.clip(np.rint(np.nan_to_num(values) / scale), -127, 127)
        return tensor._replace(dtype="int8", words=levels.astype(np.int8).view("u1"))
    if form == "upcast":
        words = bfloat16(values).astype(np.uint32) << np.uint32(16)
        return tensor._replace(words=words)
    if form == "bfloat16":
        return tensor._replace(dtype=form, words=bfloat16(values))
    if form == "float16":
        with np.errstate(over="ignore"):
            return tensor._replace(dtype=form, words=values.astype("f2").view("u2"))
    raise ValueError(f"no such form: {form!r}")


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return words of bfloat16: the nearest, ties to even."""
    data = torch.from_numpy(values.copy()).to(torch.bfloat16)
    words: NDArray[np.uint16] = data.view(torch.int16).numpy().view(np.uint16)
    return words


def mapping_of(tensors: list[Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors as torch has them, by name; those it has not are left out."""
    found: dict[str, torch.Tensor] = {}
    for one in tensors:
        dtype = getattr(torch, one.dtype, None)
        if dtype is None or one.words.dtype.itemsize != dtype.itemsize:
            continue
        signed = torch.from_numpy(one.words.view(f"i{one.words.itemsize}"))
        shaped = signed.view(dtype)
        found[one.name] = (
            shaped.reshape(one.shape)
            if shaped.numel() == _product(one.shape)
            else shaped
        )
    return found


def _product(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) if shape else 1
