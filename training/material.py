"""What the detector is trained on: files, forms of their weights, attacks, statistics.

Rules:

1. Of the zoo only repositories whose side is `train` are opened, and of packages only
   owners; of the networks that `networks.py` makes, all, and layers of `initialised.py`
   that were never trained. Files of a repository, of an owner of packages, of a run, or
   of one layer and one way to draw it are one *group*.
2. Payloads have sides, too (`payloads.csv`): what is hidden in training is never what
   the figures are taken from.
3. What the tests say of each (file, attack) is computed once, and kept in a cache
   outside of the repository; a call that was stopped goes on where it was. Of other
   code it is another cache (`version`).
"""

from __future__ import annotations

import csv
import os
import pickle
import sys
import zlib
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from initialised import INITIALISED, TRAIN, of_initialised
from packages import PACKAGES
from recipes import AGAIN
from source import CARRIERS, DRAWN, Source, of_packages

from safemodel._detector.opening import opened
from safemodel._detector.statistics import Statistics, examine
from safemodel._detector.weights import PIECE, Weights
from safemodel.errors import SafeModelError
from safemodel.evaluation import stego

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
ZOO = HERE.parents[1] / "shared" / "zoo"
NETWORKS = HERE.parent / ".cache" / "networks"
MOST_WORDS = 8_000_000
_COMPRESSED = 1 << 20
"""Bytes of a program that are compressed at once."""
_AFTERWARDS = {
    "blind_spot.py", "detecting.py", "detector.py", "gray_image.py", "judging.py",
    "pictures.py", "prototype_file.py", "prototypes.py", "reference.py", "results.py",
    "room.py", "traits.py", "xray.py", "xray_judging.py", "xray_networks.py",
}  # fmt: skip
"""Modules that begin where the tests of a file end."""


class Attack(NamedTuple):
    """A form of the weights, and what is hidden in it.

    Attributes:
        form: "as-is", or a dtype, "upcast", "int8-rows".
        payload: Kind; "" for none.
        method: How it is hidden.
        held_out: Whether the payload is of the other side.
    """

    form: str
    payload: str = ""
    method: stego.Method | None = None
    held_out: bool = False


def _fill(bits: int) -> stego.Lsb:
    return stego.Lsb(bits=bits, fill=True)


_SPREAD = stego.SpreadSpectrum(sampled=True)
ATTACKS: dict[str, Attack] = {
    "clean": Attack("as-is"),
    **{
        f"clean-{form}": Attack(form)
        for form in ("bfloat16", "float16", "upcast", "int8", "int8-rows", "int4")
    },
    **{
        f"encrypted-{bits}": Attack("as-is", "random", _fill(bits))
        for bits in (16, 15, 18)
    },
    "encrypted-int8-1": Attack("int8", "random", _fill(1)),
    "encrypted-int8-rows-1": Attack("int8-rows", "random", _fill(1)),
    "encrypted-bfloat16-2": Attack("bfloat16", "random", _fill(2)),
    "encrypted-bfloat16-1": Attack("bfloat16", "random", _fill(1)),
    "encrypted-bfloat16-4": Attack("bfloat16", "random", _fill(4)),
    "program-2": Attack("as-is", "program", _fill(2)),
    "program-2-held": Attack("as-is", "program", _fill(2), True),
    "program-4-part": Attack("as-is", "program", stego.Lsb(bits=4, share=0.05)),
    "program-4-part-held": Attack(
        "as-is", "program", stego.Lsb(bits=4, share=0.05), True
    ),
    "zlib-8": Attack("as-is", "zlib", _fill(8)),
    "zlib-8-held": Attack("as-is", "zlib", _fill(8), True),
    "program-1": Attack("as-is", "program", _fill(1)),
    "program-1-held": Attack("as-is", "program", _fill(1), True),
    "encrypted-float16-3": Attack("float16", "random", _fill(3)),
    "encrypted-float16-5": Attack("float16", "random", _fill(5)),
    "encrypted-upcast-8": Attack("upcast", "random", _fill(8)),
    "encrypted-int4-1": Attack("int4", "random", _fill(1)),
    "encrypted-8": Attack("as-is", "random", _fill(8)),
    "spread-10": Attack("as-is", "0.1", _SPREAD),
    "spread-40": Attack("as-is", "0.4", _SPREAD),
    "program-8-held": Attack("as-is", "program", _fill(8), True),
    "program-2-matching": Attack(
        "as-is", "program", stego.Lsb(bits=2, fill=True, matching=True, key=b"places")
    ),
    "program-8-spread-out": Attack(
        "as-is", "program", stego.Lsb(bits=8, share=0.2, key=b"places")
    ),
}


def sources(
    networks: Path, zoo: Path, packages: Path = PACKAGES, drawn: Path = INITIALISED
) -> list[Source]:
    """Return the files of rule 1 that there are; layers are drawn if need be."""
    return [
        *_of_zoo(zoo), *of_packages("train", packages), *_of_networks(networks),
        *of_initialised(0, TRAIN, drawn),
    ]  # fmt: skip


def _of_zoo(zoo: Path) -> Iterator[Source]:
    if not (zoo / "manifest.csv").is_file():
        return
    sides = {row["repo"]: row["side"] for row in _rows(HERE / "split.csv")}
    taken: dict[str, int] = {}
    rows = _rows(zoo / "manifest.csv")
    # Large files first: attacks go into those.
    rows.sort(key=lambda row: -int(row["params_float32"] or 0))
    for row in rows:
        if sides.get(row["repo"]) != "train" or row["role"] != "weights":
            continue
        number = taken[row["repo"]] = taken.get(row["repo"], 0) + 1
        name = f"{row['repo'].split('/')[1]}-{row['sha256'][:8]}"
        yield Source(name, zoo / row["file"], row["repo"], row["family"], "zoo", "",
                     number <= CARRIERS)  # fmt: skip


def _of_networks(networks: Path) -> Iterator[Source]:
    if not (networks / "manifest.csv").is_file():
        return
    for row in _rows(networks / "manifest.csv"):
        once = int(row["seed"]) < AGAIN
        yield Source(row["file"], networks / row["file"], row["group"],
                     row["architecture"], row["kind"], row["attack"],
                     row["kind"] == "trained" and row["dtype"] == "float32"
                     and not row["attack"] and once)  # fmt: skip


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- weights and their forms -----------------------------------------------------


class Tensor(NamedTuple):
    """A tensor's words; as `Weights`, whole."""

    name: str
    dtype: str
    words: NDArray[Any]
    role: Any
    shape: tuple[int, ...]


def tensors_of(path: Path) -> list[Tensor]:
    """Return the tensors of a file; none if it is of no kind that we read."""
    found: list[Tensor] = []
    parts: list[NDArray[Any]] = []
    try:
        with opened(path) as file:
            for item in file.weights():
                parts.append(item.bits)
                if item.start + item.bits.size == item.size:
                    words = parts[0] if len(parts) == 1 else np.concatenate(parts)
                    found.append(
                        Tensor(item.name, item.dtype, words, item.role, item.shape)
                    )
                    parts = []
    except (SafeModelError, ValueError):
        return []
    return _some(found)


def _some(tensors: list[Tensor]) -> list[Tensor]:
    """Return the first tensors that have not too many words together."""
    kept, words = [], 0
    for tensor in tensors:
        if words + tensor.words.size <= MOST_WORDS:
            kept.append(tensor)
            words += tensor.words.size
    return kept


def formed(tensors: list[Tensor], form: str) -> list[Tensor]:
    """Return the float32 weights among tensors in another form."""
    if form == "as-is":
        return tensors
    made = []
    for tensor in tensors:
        if tensor.dtype != "float32" or tensor.role == "slack":
            continue
        values = tensor.words.view(np.float32)
        words, dtype = _words_of(values, form, tensor.shape)
        if words.size:
            made.append(tensor._replace(dtype=dtype, words=words))
    return made


def _words_of(
    values: NDArray[np.float32], form: str, shape: tuple[int, ...]
) -> tuple[NDArray[Any], str]:
    with np.errstate(all="ignore"):
        if form == "bfloat16":
            words = values.view(np.uint32).astype(np.uint64)
            return ((words + 0x7FFF + (words >> 16 & 1)) >> 16).astype("u2"), form
        if form == "float16":
            return values.astype(np.float16).view("u2"), form
        if form == "upcast":
            return values.astype(np.float16).astype("f4").view("u4"), "float32"
        rows = (
            values.reshape(shape[0], -1)
            if form == "int8-rows" and len(shape) > 1
            else values.reshape(1, -1)
        )
        if len(shape) < 2:
            return np.zeros(0, "u1"), "int8"  # biases are not quantised
        most = 7 if form == "int4" else 127
        scale = np.abs(np.nan_to_num(rows)).max(1, keepdims=True) / most + 1e-30
        levels = np.clip(np.rint(np.nan_to_num(rows) / scale), -most, most)
        whole = levels.astype(np.int8).reshape(-1)
        if form != "int4":
            return whole.view("u1"), "int8"
        whole = (whole[: whole.size // 2 * 2] + 8).view("u1")
        return whole[::2] | whole[1::2] << np.uint8(4), "quint4x2"


# --- attacks ----------------------------------------------------------------------


def _seed(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _program(size: int, held_out: bool, seed: bytes) -> bytes:
    """Return bytes of one side's programs, from a beginning of one of them."""
    if held_out:
        return stego.payload("program", size)
    files = _programs()
    first = seed[0] % len(files)
    return b"".join(files[first:] + files[:first])[:size]


@cache
def _programs() -> list[bytes]:
    """Return the programs that may be hidden in training."""
    rows = [row for row in _rows(HERE / "payloads.csv") if row["side"] == "train"]
    return [path.read_bytes() for row in rows for path in _found(row["file"])]


def _compressed(data: bytes, most: int) -> bytes:
    """Return the beginning of what zlib makes of data."""
    stream, made = zlib.compressobj(9), bytearray()
    for at in range(0, len(data), _COMPRESSED):
        made += stream.compress(data[at : at + _COMPRESSED])
        if len(made) >= most:
            return bytes(made[:most])
    return bytes(made + stream.flush())[:most]


def _found(name: str) -> list[Path]:
    folders = [Path("/bin"), Path("/usr/bin"), Path("/usr/lib"), Path("/lib")]
    folders += [
        folder for at in ("/usr/lib", "/lib") for folder in Path(at).glob("*-linux-*")
    ]
    return [folder / name for folder in folders if (folder / name).is_file()][:1]


def payload_of(attack: Attack, size: int, seed: bytes) -> bytes:
    """Return at most so many bytes to hide."""
    if attack.payload == "random":
        return stego.payload("random", size, key=seed)
    if attack.payload == "zlib":
        return _compressed(
            _program(min(4 * size, 24_000_000), attack.held_out, seed), size
        )
    return _program(min(size, 20_000_000), attack.held_out, seed)


def attacked(
    tensors: list[Tensor], attack: Attack, seed: bytes
) -> tuple[list[Tensor], tuple[str, ...]] | None:
    """Return tensors with something hidden, and the names of those changed.

    None if there is no room.
    """
    tensors = formed(tensors, attack.form)
    if attack.method is None:
        return (tensors, ()) if tensors else None
    dtype, weights = _most(tensors)
    if weights < 1000 or (dtype != "float32" and attack.form == "as-is"):
        return None
    chosen = {str(at): one for at, one in enumerate(tensors)
              if one.dtype == dtype and one.role == "weight"}  # fmt: skip
    if dtype == "quint4x2":
        return _nibbles(tensors, seed), tuple(one.name for one in tensors)
    method = attack.method
    arrays = {key: one.words.copy() for key, one in chosen.items()}
    if isinstance(method, stego.SpreadSpectrum):
        return _spread(tensors, arrays, dtype, float(attack.payload), seed)
    method = _placed(method, weights, seed)
    size = stego.capacity(arrays, method, dtype=dtype) // 8
    if size < 64:
        return None
    data = payload_of(attack, size, seed)
    _, told = stego.embed(arrays, data, method, dtype=dtype, in_place=True)
    changed = tuple(
        chosen[span.tensor].name for span in told.where if span.weights > 64
    )
    return _put_back(tensors, arrays), changed


def _most(tensors: list[Tensor]) -> tuple[str, int]:
    """Return of which dtype most weights are, and how many."""
    counts = {"": 0}
    for one in tensors:
        if one.dtype in _DTYPES and one.role == "weight":
            counts[one.dtype] = counts.get(one.dtype, 0) + one.words.size
    dtype = max(counts, key=counts.__getitem__)
    return dtype, counts[dtype]


def _placed(method: stego.Method, weights: int, seed: bytes) -> stego.Lsb:
    """Return a method that uses a part of the weights from some place on."""
    if not isinstance(method, stego.Lsb):
        raise TypeError(f"no way to hide with {method}")
    if method.share == 1 or method.key is not None:
        return method
    room = int(weights * (1 - method.share))
    start = int.from_bytes(seed[:8], "big") % max(room, 1)
    share = method.share * weights / (weights - start)
    return stego.Lsb(bits=method.bits, start=start, share=min(1.0, share))


_DTYPES = {"float32", "float16", "bfloat16", "int8", "quint4x2"}


def _put_back(tensors: list[Tensor], arrays: dict[str, Any]) -> list[Tensor]:
    return [one._replace(words=arrays.get(str(at), one.words))
            for at, one in enumerate(tensors)]  # fmt: skip


def _nibbles(tensors: list[Tensor], seed: bytes) -> list[Tensor]:
    """Return words of two numbers, the lowest bit of each random."""
    random = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    made = []
    for one in tensors:
        lowest = random.integers(0, 256, one.words.size, np.uint8) & np.uint8(0x11)
        made.append(one._replace(words=one.words & np.uint8(0xEE) | lowest))
    return made


def _spread(
    tensors: list[Tensor], arrays: dict[str, Any], dtype: str, share: float, seed: bytes
) -> tuple[list[Tensor], tuple[str, ...]] | None:
    if dtype != "float32":
        return None
    method = stego.SpreadSpectrum(sampled=True, seed=int.from_bytes(seed[:3], "big"))
    weights = sum(array.size for array in arrays.values())
    chunks = max(1, round(share * weights / (method.chunk_bits * method.chunk_factor)))
    # As published, it goes into tensors that are called weights.
    floats = {f"{key}.weight": one.view(np.float32) for key, one in arrays.items()}
    for lower in (chunks, max(1, chunks - 1)):
        size = max(1, lower * method.chunk_bits // 3 // 8 - 40)
        try:
            made, _ = stego.embed(floats, bytes(size), method)
        except ValueError:
            continue
        arrays = {
            key.removesuffix(".weight"): value.view(np.uint32)
            for key, value in made.items()
        }
        return _put_back(tensors, arrays), ()
    return None


def items(tensors: list[Tensor]) -> Iterator[Weights]:
    """Yield tensors as `examine` takes them."""
    for one in tensors:
        for start in range(0, one.words.size, PIECE):
            part = np.ascontiguousarray(one.words[start : start + PIECE])
            yield Weights(one.name, one.dtype, part, one.role, one.shape, start,
                          one.words.size)  # fmt: skip


# --- the cache ---------------------------------------------------------------------


class Sample(NamedTuple):
    """What the tests say of one (file, attack).

    Attributes:
        source: The file.
        attack: Key of `ATTACKS`.
        statistics: As `examine` gives them; outcomes of no weight are left out.
        words: How many weights there are.
        changed: Names of tensors that hold something.
    """

    source: Source
    attack: str
    statistics: Statistics
    words: int
    changed: tuple[str, ...]


def version() -> str:
    """Return a digest of the code that what is cached comes from."""
    package = HERE.parent / "safemodel"
    files = [Path(__file__).resolve()]
    files += sorted(package.glob("_detector/*.py")) + sorted(
        package.glob("_kernels/*.py")
    )
    made = sha256()
    for path in files:
        if path.name not in _AFTERWARDS:
            made.update(path.read_bytes())
    return made.hexdigest()[:12]


def applies(source: Source, attack: str) -> bool:
    """Say whether an attack goes into a file; all files are looked at as they are.

    Of a second network of a recipe, and of layers as they were drawn, there are all
    forms, and no attack.
    """
    form = attack.startswith("clean-") and source.kind in ("trained", DRAWN)
    return attack == "clean" or source.carrier or form


def sample(source: Source, attack: str, cache: Path) -> Sample | None:
    """Return what the tests say, from the cache if it is there."""
    path = cache / f"{sha256(source.name.encode()).hexdigest()[:16]}.{attack}.pickle"
    if path.exists():
        return pickle.loads(path.read_bytes())  # noqa: S301 - made by the lines below
    made = _made(source, attack)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(made))
    part.replace(path)
    return made


def _made(source: Source, attack: str) -> Sample | None:
    tensors = tensors_of(source.path)
    done = attacked(tensors, ATTACKS[attack], _seed(f"{source.name} {attack}"))
    if done is None:
        return None
    statistics = examine(items(done[0]))
    kept = sorted(statistics.ledger.kept, key=lambda one: one.log_p)[:500]
    statistics.ledger.kept = kept
    words = sum(one.words.size for one in done[0] if one.role == "weight")
    return Sample(source, attack, statistics._replace(candidates=()), words, done[1])


def collect(todo: list[tuple[Source, str]], cache: Path) -> None:
    """Fill the cache."""
    for at, (source, attack) in enumerate(todo):
        sample(source, attack, cache)
        if at % 200 == 0:
            print(
                f"{os.getpid()}: {at}/{len(todo)} {attack}", file=sys.stderr, flush=True
            )
