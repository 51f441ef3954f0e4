"""What is hidden in which weights, for `bench_detect`: the rows of issue and attackers.

Rules:

1. Payloads are those that no detector was trained on (`training/payloads.csv`): Python
   itself. "Encrypted" is the keystream of AES-256 under a key of each file's own.
2. Only weights carry: neither buffers, nor the state of an optimiser, but where a case
   says so.
3. A case that a file has no room for gives nothing, and is not counted.
"""

from __future__ import annotations

import csv
import zlib
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from detect_material import TRAINING, Tensor, formed

from safemodel.evaluation import stego

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROGRAM_MOST = 20_000_000
LEAST_PAYLOAD = 64


class Case(NamedTuple):
    """A form of the weights, and what is hidden in them.

    Attributes:
        key: Name.
        form: See `formed`.
        payload: "program", "zlib", "random"; "" for nothing.
        method: How; None for nothing, or what `special` does.
        role: Of the tensors that carry it.
        place: Put it at a place that a hash of the file chooses, if it is a part.
        special: "coded", "deep": see `_special`.
    """

    key: str
    form: str = "as-is"
    payload: str = ""
    method: stego.Method | None = None
    role: str = "weight"
    place: bool = False
    special: str = ""


class Hidden(NamedTuple):
    """Weights with something in them.

    Attributes:
        tensors: All of them.
        changed: Names of those that hold something.
        payload: What is hidden.
        method: How.
    """

    tensors: list[Tensor]
    changed: frozenset[str]
    payload: bytes
    method: stego.Method | None


def _fill(bits: int, **more: Any) -> stego.Lsb:
    return stego.Lsb(bits=bits, fill=True, **more)


CLEAN_FORMS = ("bfloat16", "float16", "int8")
KEY = b"places that only the reader knows"
_SPREAD = stego.SpreadSpectrum(sampled=True)
MAIN = (
    *(Case(f"clean-{form}", form) for form in CLEAN_FORMS),
    Case("program-8", payload="program", method=_fill(8)),
    Case("program-2", payload="program", method=_fill(2)),
    Case("program-1", payload="program", method=_fill(1)),
    Case("program-4-part", payload="program", place=True,
         method=stego.Lsb(bits=4, share=0.05)),
    Case("zlib-8", payload="zlib", method=_fill(8)),
    Case("encrypted-16", payload="random", method=_fill(16)),
    Case("encrypted-15", payload="random", method=_fill(15)),
    Case("encrypted-20", payload="random", method=_fill(20)),
    Case("encrypted-23", payload="random", method=_fill(23)),
    Case("encrypted-bfloat16-4", "bfloat16", "random", _fill(4)),
    Case("encrypted-bfloat16-2", "bfloat16", "random", _fill(2)),
    Case("encrypted-bfloat16-1", "bfloat16", "random", _fill(1)),
    Case("encrypted-bfloat16-7", "bfloat16", "random", _fill(7)),
    Case("encrypted-int8-1", "int8", "random", _fill(1)),
    Case("encrypted-8", payload="random", method=_fill(8)),
    Case("spread", payload="program", method=_SPREAD),
)  # fmt: skip
ADAPTIVE = (
    Case("program-2-one-percent", payload="program", place=True,
         method=stego.Lsb(bits=2, share=0.01)),
    Case("program-2-keyed", payload="program",
         method=stego.Lsb(bits=2, share=0.05, key=KEY)),
    Case("program-2-matching", payload="program",
         method=_fill(2, matching=True, key=KEY)),
    Case("program-1-keyed-matching", payload="program",
         method=stego.Lsb(bits=1, share=0.05, matching=True, key=KEY)),
    Case("encrypted-10", payload="random", method=_fill(10)),
    Case("encrypted-8-skip-exact", payload="random", method=_fill(8, skip_exact=True)),
    Case("encrypted-16-coded", payload="random", method=_fill(16), special="coded"),
    Case("encrypted-bfloat16-4-coded", "bfloat16", "random", _fill(4),
         special="coded"),
    Case("encrypted-16-five-percent", payload="random", place=True,
         method=stego.Lsb(bits=16, share=0.05)),
    Case("spread-3e-4", payload="program",
         method=stego.SpreadSpectrum(sampled=True, gamma=3e-4)),
    Case("program-2-optimiser", payload="program", method=_fill(2), role="optimiser"),
    Case("encrypted-8-optimiser", payload="random", method=_fill(8), role="optimiser"),
    Case("encrypted-8-upcast", "upcast", "random", _fill(8)),
    Case("encrypted-16-upcast", "upcast", "random", _fill(16)),
)  # fmt: skip
CASES = {case.key: case for case in (*MAIN, *ADAPTIVE)}


def seed_of(text: str) -> bytes:
    """Return 32 bytes that a text chooses."""
    return sha256(text.encode()).digest()


def hidden(tensors: list[Tensor], case: Case, name: str) -> Hidden | None:
    """Return the weights of a file with something hidden in them (rules 1 to 3)."""
    tensors = formed(tensors, case.form)
    if not case.payload:
        return Hidden(tensors, frozenset(), b"", None) if tensors else None
    dtype = case.form if case.form in CLEAN_FORMS else "float32"
    which = [at for at, one in enumerate(tensors)
             if one.dtype == dtype and one.role == case.role]  # fmt: skip
    weights = sum(tensors[at].words.size for at in which)
    if weights < 1000 or case.method is None:
        return None
    seed = seed_of(f"{name} {case.key}")
    arrays = {str(at): tensors[at].words.copy() for at in which}
    made = _embedded(arrays, case, dtype, weights, seed)
    if made is None:
        return None
    arrays, spans, payload, method = made
    if case.special:
        arrays = {key: _dealt(tensors[int(key)].words, case, seed) for key in arrays}
    found = [one._replace(words=arrays.get(str(at), one.words))
             for at, one in enumerate(tensors)]  # fmt: skip
    changed = frozenset(tensors[int(key)].name for key in spans)
    return Hidden(found, changed, payload, method)


def _embedded(
    arrays: dict[str, NDArray[Any]], case: Case, dtype: str, weights: int, seed: bytes
) -> tuple[dict[str, NDArray[Any]], list[str], bytes, stego.Method] | None:
    method = case.method
    assert method is not None
    if isinstance(method, stego.SpreadSpectrum):
        return _spread(arrays, method, seed)
    assert isinstance(method, stego.Lsb)
    if case.place:
        room = int(weights * (1 - method.share))
        start = int.from_bytes(seed[:8], "big") % max(room, 1)
        share = min(1.0, method.share * weights / (weights - start))
        method = stego.Lsb(bits=method.bits, start=start, share=share)
    size = stego.capacity(arrays, method, dtype=dtype) // 8
    if size < LEAST_PAYLOAD:
        return None
    data = payload_of(case.payload, size, seed)
    _, told = stego.embed(arrays, data, method, dtype=dtype, in_place=True)
    return arrays, [span.tensor for span in told.where], data, method


def _spread(
    arrays: dict[str, NDArray[Any]], method: stego.SpreadSpectrum, seed: bytes
) -> tuple[dict[str, NDArray[Any]], list[str], bytes, stego.Method] | None:
    """Half of what there is room for, by a seed of the file's own."""
    method = stego.SpreadSpectrum(
        gamma=method.gamma, sampled=True, seed=int.from_bytes(seed[:3], "big")
    )
    floats = {key: array.view(np.float32) for key, array in arrays.items()}
    names = list(floats)
    room = stego.capacity(floats, method, tensors=names) // 8
    if room < LEAST_PAYLOAD:
        return None
    data = payload_of("program", room // 2, seed)
    made, told = stego.embed(floats, data, method, tensors=names)
    words = {key: value.view(np.uint32) for key, value in made.items()}
    return words, [span.tensor for span in told.where], data, method


def payload_of(kind: str, size: int, seed: bytes) -> bytes:
    """Return at most so many bytes to hide; what is short is repeated."""
    if kind == "random":
        return stego.payload("random", size, key=seed)
    if kind == "zlib":
        return zlib_of_program()[:size]
    if kind == "library":
        return libraries()[:size]
    return stego.payload("program", min(size, PROGRAM_MOST))


@cache
def zlib_of_program() -> bytes:
    """Return what zlib makes of the program; it takes a second."""
    return zlib.compress(stego.payload("program", PROGRAM_MOST), 9)


def _dealt(words: NDArray[Any], case: Case, seed: bytes) -> NDArray[Any]:
    """Return words whose low bits were dealt anew among those that agree above them.

    It stands for a code that hides as much as it can and keeps the distribution of the
    low bits, given the others, as it was. No code does better, and none is so good.
    """
    assert isinstance(case.method, stego.Lsb)
    low = words.dtype.type((1 << case.method.bits) - 1)
    random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    upper = words & ~low
    order = np.argsort(upper, kind="stable")
    shuffled = np.lexsort((random.random(words.size), upper))
    made = words.copy()
    made[order] = upper[order] | words[shuffled] & low
    return made


@cache
def libraries() -> bytes:
    """Return programs of the training side, to adapt a detector with."""
    with (TRAINING / "payloads.csv").open(newline="", encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["side"] == "train"]
    folders = [Path("/bin"), Path("/usr/lib"), Path("/lib")]
    folders += sorted(Path("/usr/lib").glob("*-linux-*"))
    found = [folder / name for name in names for folder in folders]
    data = b"".join(path.read_bytes() for path in found if path.is_file())
    if not data:
        raise FileNotFoundError(f"none of {', '.join(names)} on this machine")
    return data[:PROGRAM_MOST]
