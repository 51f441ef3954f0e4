"""Protected files to tamper with, each with its relatives: what an attacker may have.

The attacker has many files of one key, older epochs, the plain file, the same content
protected again, under another key or in the other mode, and no key. Everything is made
under repeatable randomness, so that a mutant is named by two numbers.
"""

from __future__ import annotations

import io
import os
import random
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save

from safemodel import protect, rotate
from safemodel._containers.source import open_source
from safemodel._protect import folders, protecting
from safemodel._protect.frames import SAFETENSORS, find_seal, stored_lengths
from safemodel._protect.opening import open_protected
from safemodel.limits import DEFAULT_LIMITS
from safemodel.protection import ProtectionKey
from tests.unit.protect.helpers_protect import SIGNER

SECRET = bytes(range(200, 232))
KEY = ProtectionKey(SECRET)
OTHER = ProtectionKey(bytes(range(100, 132)))
EPOCH = 3
BIG = 700_000
"""Elements of a float32 tensor of more than two chunks."""

MARK = 0x5EC12E75EC12E7
"""The value of every element of one tensor, which no error may show."""

NAME = "zq-"
"""What the names of plain tensors begin with, which only a change of one may show."""

NOTE = "zq hyper-parameter"
"""Plain data, which no error may show."""

KINDS = ("safetensors", "pt")


@dataclass
class Seed:
    """One protected file, and where its parts lie.

    Attributes:
        name: Which it is.
        kind: "safetensors" or "pt".
        content: The file.
        hole: First byte of the hole of the seal, and one past its last.
        spans: Where each stored tensor lies, in the order of the file.
        pools: Number of the pool of each.
        seal: The seal itself.
        relatives: Other files by their role.
        signed: Whether it has a signature.
    """

    name: str
    kind: str
    content: bytes
    hole: tuple[int, int]
    spans: list[tuple[int, int]]
    pools: list[int]
    seal: bytes
    relatives: dict[str, bytes] = field(default_factory=dict)
    signed: bool = False

    @property
    def made(self) -> int:
        """The number of the kind of file."""
        return SAFETENSORS if self.kind == "safetensors" else 3 - SAFETENSORS


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Let what the system calls random be the same each time: for files of tests."""
    noise = random.Random(seed)  # noqa: S311 - that is what it is for
    kept = os.urandom, random._urandom
    new_file_id = protecting.new_file_id
    os.urandom = random._urandom = noise.randbytes
    # Which depends on the time and on the file as well.
    protecting.new_file_id = folders.new_file_id = lambda _: noise.randbytes(32)
    try:
        yield
    finally:
        os.urandom, random._urandom = kept
        protecting.new_file_id = folders.new_file_id = new_file_id


def plain_tensors(*, big: bool = False) -> dict[str, torch.Tensor]:
    """Return tensors of several dtypes, among them an empty and a 0-dim one."""
    made = torch.Generator().manual_seed(7)
    found = {
        "zq-attention.weight": torch.randn(60, 50, generator=made),
        "zq-attention.norm": torch.randn(60, generator=made),
        "zq-bias": torch.randn(50, generator=made),
        "zq-scale": torch.tensor(1.5, dtype=torch.bfloat16),
        "zq-empty": torch.zeros(0, 3),
        "zq-flags": torch.tensor([True, False, True]),
        "zq-steps": torch.arange(19, dtype=torch.int32),
        "zq-secret": torch.full((40,), MARK),
    }
    if big:
        found["zq-huge.weight"] = torch.randn(BIG, generator=made)
    return found


def plain_file(kind: str, *, big: bool = False) -> bytes:
    """Return a plain file of a kind."""
    if kind == "safetensors":
        return save(plain_tensors(big=big), {"author": NOTE})
    tensors = plain_tensors(big=big)
    tensors["zq-tied"] = tensors["zq-attention.weight"]
    tensors["zq-strided"] = torch.arange(24.0).reshape(4, 6).t()[1:]
    file = io.BytesIO()
    torch.save({"model": OrderedDict(tensors), "lr": 0.1, "note": NOTE}, file)
    return file.getvalue()


def seed_of(name: str, kind: str, content: bytes, key: ProtectionKey = KEY) -> Seed:
    """Return a protected file with its parts."""
    source = open_source(content)
    found = find_seal(source, DEFAULT_LIMITS)
    assert found is not None
    of = open_protected(source, key, limits=DEFAULT_LIMITS)
    pools = of.manifest.pools
    order = sorted(range(len(pools)), key=lambda number: -pools[number].itemsize)
    gaps = list(of.contents.gaps(stored_lengths(pools)))
    return Seed(
        name=name,
        kind=kind,
        content=content,
        hole=(found.start, found.end),
        spans=[(a[1], b[0]) for a, b in pairwise(gaps[1:])],
        pools=[number for number in order for _ in pools[number].stored],
        seal=bytes(found.data),
        signed=of.signer is not None,
    )


def family(kind: str, *, confidential: bool, big: bool, signed: bool = False) -> Seed:
    """Return a protected file in its third epoch, and its relatives."""
    plain = plain_file(kind, big=big)
    signer = SIGNER if signed else None
    with tempfile.TemporaryDirectory() as folder:
        count = iter(range(100))

        def made(source: bytes, *, turn: bool = False, **how: object) -> bytes:
            out = Path(folder) / f"{next(count)}.{kind}"
            call = rotate if turn else protect
            call(source, out, **{"key": KEY, "signer": signer, **how})
            return out.read_bytes()

        mode = {"confidential": confidential}
        oldest = made(plain, epoch=EPOCH - 2, **mode)
        older = made(oldest, turn=True)
        content = made(older, turn=True)
        relatives = {
            "plain": plain,
            "oldest": oldest,
            "older": older,
            "newer": made(content, turn=True),
            "again": made(plain, epoch=EPOCH, **mode),
            "twin": made(older, turn=True),
            "other mode": made(older, turn=True, confidential=not confidential),
            "rekeyed": made(older, turn=True, new_key=OTHER),
            "other key": made(plain, epoch=EPOCH, key=OTHER, **mode),
            "expired": made(plain, epoch=EPOCH, expires=1, **mode),
            "unsigned": made(older, turn=True, signer=None, unsigned=True),
        }
    name = "-".join(
        [kind, "confidential" if confidential else "plain", "big" if big else "small"]
        + ["signed"] * signed
    )
    seed = seed_of(name, kind, content)
    seed.relatives = relatives
    return seed


def warm_up() -> None:
    """Import and compile what is needed: that, too, asks the system for randomness."""
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / f"p.{kind}"
            protect(plain_file(kind, big=True), path, key=KEY, signer=SIGNER)
            rotate(path, path, key=KEY, overwrite=True, unsigned=True)


def build_protected(*, all_big: bool = True) -> list[Seed]:
    """Return all files to tamper with, in a fixed order.

    Args:
        all_big: Whether there are large files of each kind in both modes, or in one.
    """
    warm_up()
    with repeatable(4):
        small = [
            family(kind, confidential=confidential, big=False, signed=signed)
            for kind in KINDS
            for confidential in (False, True)
            for signed in (False, True)
        ]
        big = [
            family(kind, confidential=confidential, big=True)
            for kind in KINDS
            for confidential in (False, True)
            if all_big or confidential == (kind == "pt")
        ]
    return small + big
