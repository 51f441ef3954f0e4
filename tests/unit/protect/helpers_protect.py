"""A small protected file, without the file: pools, bytes, manifest."""

from __future__ import annotations

import base64
import os
import traceback
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import safemodel
from safemodel._protect.keys import ProtectionKey
from safemodel._protect.layout import (
    ENCRYPTED,
    PLAIN,
    STORED,
    Extent,
    Pool,
    leaf_ends,
)
from safemodel._protect.leaves import PoolTagger
from safemodel._protect.manifest import Manifest
from safemodel._protect.tags import Tagger

MIB = 1 << 20
_PACKAGE = f"{Path(safemodel.__file__).parent}{os.sep}"
SECRET = bytes(range(200, 232))
KEY = ProtectionKey(SECRET)
OTHER = ProtectionKey(bytes(range(100, 132)))
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(50, 82)))
PUBLIC = SIGNER.public_key().public_bytes_raw()
FILE_ID = bytes(range(32))


def pool_of(
    dtype: str,
    itemsize: int,
    plain: list[tuple[str, tuple[int, ...]]],
    stored: list[tuple[str, tuple[int, ...]]],
) -> Pool:
    """Return a pool of tensors, given by name and shape."""
    layouts = [_laid(itemsize, tensors) for tensors in (stored, plain)]
    length = sum(extent.length for extent in layouts[0])
    return Pool(
        dtype=dtype,
        itemsize=itemsize,
        length=length,
        stored=layouts[0],
        plain=layouts[1],
    )


def _laid(
    itemsize: int, tensors: list[tuple[str, tuple[int, ...]]]
) -> tuple[Extent, ...]:
    at = 0
    made = []
    for name, shape in tensors:
        length = itemsize
        for axis in shape:
            length *= axis
        made.append(Extent(name, shape, at, length))
        at += length
    return tuple(made)


def small_pools() -> tuple[Pool, ...]:
    """Return two pools of a few bytes: an empty and a 0-dim tensor are among them."""
    return (
        pool_of(
            "float32",
            4,
            [("fc.weight", (4, 2)), ("none", (0, 3)), ("scale", ())],
            [("t0", (9,)), ("t1", (0,))],
        ),
        pool_of("int64", 8, [("steps", (3,))], [("t2", (3,))]),
    )


def manifest_of(
    pools: tuple[Pool, ...] | None = None,
    *,
    key: ProtectionKey = KEY,
    file_id: bytes = FILE_ID,
    epoch: int = 3,
    expires: int | None = 2_000_000_000,
    fill: int = 7,
    data: bytes = b'{"lr": 0.1}',
    confidential: bool = False,
) -> Manifest:
    """Return a manifest, with the tags of bytes that are all ``fill``."""
    pools = small_pools() if pools is None else pools
    tagger = Tagger.keyed(key, file_id, epoch)

    def leaves(number: int, pool: Pool, order: int) -> tuple[bytes, ...]:
        parts = chunks(pool, fill, order)
        return tuple(PoolTagger(tagger, number, pool, order).leaves(parts))

    return Manifest(
        file_id=file_id,
        epoch=epoch,
        expires=expires,
        confidential=confidential,
        pools=pools,
        leaves=tuple(
            (None, leaves(number, pool, ENCRYPTED))
            if confidential
            else (leaves(number, pool, STORED), leaves(number, pool, PLAIN))
            for number, pool in enumerate(pools)
        ),
        frame=tagger.frame([b"zip headers"]),
        data=(data,),
    )


def chunks(pool: Pool, fill: int = 7, order: int = STORED) -> list[bytes]:
    """Return a pool's bytes, all of them ``fill``, in the chunks of an order."""
    ends = leaf_ends(pool, order)
    return [
        bytes([fill]) * (end - start)
        for start, end in zip([0, *ends[:-1]], ends, strict=False)
    ]


def forms_of(secret: bytes) -> list[str]:
    """Return how a secret would look in a text, all of it or half."""
    forms = []
    for part in (secret, secret[:16], secret[16:]):
        forms += [
            part.hex(),
            part.hex().upper(),
            part.decode("latin-1"),
            repr(part)[2:-1],
            repr(list(part))[1:-1],
            str(int.from_bytes(part, "big")),
            str(int.from_bytes(part, "little")),
        ]
        for shift in range(3):  # base64 of it within other bytes
            inner = base64.b64encode(b"x" * shift + part)[4:-4].decode()
            forms += [inner, inner.replace("+", "-").replace("/", "_")]
    return forms


def text_of(error: BaseException) -> str:
    """Return all that tools show of an error, and of those behind it.

    The arguments, attributes, notes and traceback, and the local variables of our own
    frames, which crash reporters send along.
    """
    parts: list[str] = []
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is None:
            continue
        parts += [repr(one), str(one), repr(one.args), repr(vars(one))]
        parts += traceback.format_exception(one)
        parts += _locals(one.__traceback__)
        todo += [one.__cause__, one.__context__]
    return "\n".join(parts)


def _locals(at: TracebackType | None) -> list[str]:
    """Return the local variables of every frame of the package."""
    found = []
    while at is not None:
        if at.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            found.append(repr(at.tb_frame.f_locals))
        at = at.tb_next
    return found


def holds_secret(text: str, secret: bytes = SECRET) -> bool:
    """Return whether a text has a key, or half of it, in any usual form."""
    return any(form in text for form in forms_of(secret))
