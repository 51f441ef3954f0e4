"""A protected file, written in one go: frame, pools in stored order, seal.

1. Everything but tags and CRC-32 is known beforehand, so the file is written from its
   first byte to its last, and those are put in afterwards.
2. Each chunk is tagged and then written: of the same bytes in memory. So is the frame:
   what the file has may be somebody else's by then. Only the public root is of bytes
   that are read back.
3. No pool is in memory as a whole, unless `pool_stream` has room for it.
4. A pool is either permuted or encrypted (`encrypted`).
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from safemodel._protect import contents as layouts
from safemodel._protect.contents import Contents
from safemodel._protect.encoding import Writer
from safemodel._protect.encrypted import EncryptedPool
from safemodel._protect.flow import AHEAD, ahead, behind, counted
from safemodel._protect.frames import (
    TORCH,
    Frame,
    in_file_order,
    make_frame,
    seal_field,
    seal_room,
    stored_lengths,
)
from safemodel._protect.layout import CHUNK, PLAIN, STORED, Pool, leaf_ends
from safemodel._protect.leaves import PoolTagger
from safemodel._protect.manifest import Manifest
from safemodel._protect.permutation import PoolKey
from safemodel._protect.plain_leaves import PlainLeaves
from safemodel._protect.public_tags import public_root
from safemodel._protect.seal import Draft, sealed_size
from safemodel._protect.tags import TAG_BYTES, Tagger
from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from safemodel._protect.keys import ProtectionKey
    from safemodel._protect.manifest import Data
    from safemodel._protect.scratch import Scratch
    from safemodel._protect.tags import Leaves
    from safemodel._rewrite.output import Output
    from safemodel.limits import Limits

    ReadInto: TypeAlias = Callable[[int, memoryview], None]
    PlainOf: TypeAlias = Callable[[int], "AbstractContextManager[Plain]"]
    Step: TypeAlias = Callable[[int], None]

_ZEROS = bytes(1 << 16)


class Plain(NamedTuple):
    """A pool in plain order.

    Attributes:
        read: Reads it, from any offset; if it is to be encrypted, the chunk that begins
            at the offset is enough.
        check: Raises unless the chunk of an index is as it should be: it is given the
            bytes that are then tagged anew; None where there is nothing to compare.
    """

    read: ReadInto
    check: Callable[[int, memoryview], None] | None = None


class Recipe(Value):
    """What a protected file is made of, beside the bytes of its tensors.

    Attributes:
        kind: What it is to be.
        key: The key.
        file_id: The file's id.
        epoch: Which of its versions.
        expires: Seconds since 1970; None for never.
        confidential: Whether tensors are encrypted.
        signer: Who signs; None for nobody.
        pools: The tensors.
        skeleton: Gives all that is not tensors, once: it may be large, and who asks for
            it is to be the only one that holds it.
        limits: What readers will allow.
    """

    kind: int
    key: ProtectionKey
    file_id: bytes
    epoch: int
    expires: int | None
    confidential: bool
    signer: Ed25519PrivateKey | None
    pools: tuple[Pool, ...]
    skeleton: Callable[[], bytes | memoryview]
    limits: Limits

    def __repr__(self) -> str:
        return f"<Recipe of {len(self.pools)} pools>"


class _Plan(NamedTuple):
    """What is known before anything is written; the skeleton is in the draft only."""

    contents: Contents
    frame: Frame
    draft: Draft


def frame_tag(
    tagger: Tagger, contents: Contents, lengths: tuple[int, ...], read: ReadInto
) -> bytes:
    """Return the tag of all bytes between the holes, and of where they lie.

    The number of gaps (8), where each begins and ends (8 each), then their bytes.

    Args:
        tagger: The file's.
        contents: Where everything lies.
        lengths: Of the stored tensors.
        read: Fills a view with bytes of the file.
    """
    spans = list(contents.gaps(lengths))
    head = Writer()
    head.numbers(len(spans), *[edge for span in spans for edge in span])

    def pieces() -> Iterator[bytes]:
        yield head.joined()
        for start, end in spans:
            for at in range(start, end, CHUNK):
                piece = bytearray(min(CHUNK, end - at))
                read(at, memoryview(piece))
                yield bytes(piece)

    return tagger.frame(pieces())


def write(
    out: Output, recipe: Recipe, plain_of: PlainOf, scratch: Scratch, step: Step
) -> int:
    """Write a protected file; return its size.

    Args:
        out: The file.
        recipe: What it is.
        plain_of: Gives a pool in plain order, for as long as it is written.
        scratch: Room for pools that do not fit into memory.
        step: Is told how many bytes more were read or written.

    Raises:
        LimitExceededError: Readers would not accept it.
        OSError: Reading or writing failed.
    """
    contents, frame, draft = _plan(recipe)
    tagger = Tagger.keyed(recipe.key, recipe.file_id, recipe.epoch)
    holes = _Holes(out, frame, checksums=recipe.kind == TORCH)
    leaves: dict[int, Leaves] = {}
    for number in in_file_order(recipe.pools):
        with plain_of(number) as plain:
            leaves[number] = _write_pool(
                recipe, number, plain, tagger, holes, scratch, step
            )
    holes.end()
    settled = _frame(recipe, contents.room, holes.checksums)
    _settle(out, frame, settled)
    manifest = _manifest(
        recipe,
        tuple(leaves[number] for number in range(len(recipe.pools))),
        frame_tag(tagger, contents, stored_lengths(recipe.pools), _reader(settled)),
        (draft.data,),
    )
    root = _public_root(out, recipe, contents)
    sealed = draft.seal(manifest, recipe.key, recipe.signer, root, recipe.limits)
    at = contents.starts[0]
    for piece in seal_field(recipe.kind, sealed):
        out.patch(at, piece)
        at += len(piece)
    if at != contents.starts[0] + contents.room:
        raise AssertionError("the seal is of another length than planned")
    return contents.size


def _plan(recipe: Recipe) -> _Plan:
    """Return where everything will lie."""
    blank = [_blank(pool, confidential=recipe.confidential) for pool in recipe.pools]
    signed = recipe.signer is not None
    skeleton = recipe.skeleton()
    lengths = stored_lengths(recipe.pools)

    def drafted(contents: Contents) -> Manifest:
        data = contents.encoded()
        return _manifest(recipe, tuple(blank), bytes(TAG_BYTES), data)

    made = Contents(
        kind=recipe.kind,
        size=0,
        starts=(0,) * (1 + len(lengths)),
        room=0,
        skeleton=skeleton,
    )
    room = seal_room(recipe.kind, sealed_size(drafted(made), signed=signed))
    frame = _frame(recipe, room, None)
    known = {"size": frame.size, "starts": frame.starts, "room": room}
    made = Contents(**{**vars(made), **known})
    layouts.check(made, lengths)
    draft = Draft(drafted(made), signed=signed)
    return _Plan(Contents(**{**vars(made), "skeleton": b""}), frame, draft)


def _blank(pool: Pool, *, confidential: bool) -> Leaves:
    """Return as many leaves as a pool will have."""
    stored, plain = (
        (bytes(TAG_BYTES),) * len(leaf_ends(pool, order)) for order in (STORED, PLAIN)
    )
    return None if confidential else stored, plain


def _frame(recipe: Recipe, room: int, checksums: list[int] | None) -> Frame:
    return make_frame(
        recipe.kind,
        recipe.pools,
        room=room,
        confidential=recipe.confidential,
        checksums=checksums,
    )


def _manifest(
    recipe: Recipe, leaves: tuple[Leaves, ...], frame: bytes, data: Data
) -> Manifest:
    return Manifest(
        file_id=recipe.file_id,
        epoch=recipe.epoch,
        expires=recipe.expires,
        confidential=recipe.confidential,
        pools=recipe.pools,
        leaves=leaves,
        frame=frame,
        data=data,
    )


def _write_pool(
    recipe: Recipe,
    number: int,
    plain: Plain,
    tagger: Tagger,
    holes: _Holes,
    scratch: Scratch,
    step: Step,
) -> Leaves:
    """Write a pool in stored order; return its leaves in both orders (rule 2)."""
    from safemodel._protect.pool_stream import permuted

    if recipe.confidential:
        return _encrypt_pool(recipe, number, plain, tagger, holes, step)
    pool = recipe.pools[number]
    stored = PoolTagger(tagger, number, pool, STORED)
    tags: list[bytes] = []
    key = PoolKey.of(tagger, recipe.key, number, pool)
    size = pool.itemsize
    in_order = PoolTagger(tagger, number, pool, PLAIN)
    with PlainLeaves(in_order, counted(plain.read, step), plain.check) as leaves:

        def use(view: memoryview) -> None:
            leaves.begin()
            tags.append(stored.leaf(len(tags), view))
            holes.put(view)
            step(len(view))

        chunks = permuted(
            plain.read, pool.length, size, key, scratch=scratch, held=AHEAD
        )
        behind(chunks, use)
        if len(tags) != stored.chunks:
            raise AssertionError("a pool came out in another length")
        return tuple(tags), tuple(leaves.begin().result())


def _encrypt_pool(
    recipe: Recipe,
    number: int,
    plain: Plain,
    tagger: Tagger,
    holes: _Holes,
    step: Step,
) -> Leaves:
    """Write a pool encrypted; return its leaves (rule 2)."""
    made = EncryptedPool(recipe.key, tagger, number, recipe.pools[number])

    def load(index: int, view: memoryview) -> None:
        made.encrypt(index, view, plain.read, plain.check)

    # Closed here: a traceback would keep its threads.
    with closing(ahead(load, made.ends)) as batches:
        for view in batches:
            holes.put(view)
            step(len(view))
    return None, tuple(made.tags)


def _settle(out: Output, before: Frame, after: Frame) -> None:
    """Write the gaps that are others now that all CRC-32 are known."""
    at = 0
    for old, new, hole in zip(before.gaps, after.gaps, (*before.holes, 0), strict=True):
        if old != new:
            out.patch(at, new)
        at += len(old) + hole


def _reader(frame: Frame) -> ReadInto:
    """Return what reads the gaps of a frame by where they lie in the file."""
    starts: list[int] = []
    at = 0
    for gap, hole in zip(frame.gaps, (*frame.holes, 0), strict=True):
        starts.append(at)
        at += len(gap) + hole

    def read_into(at: int, view: memoryview) -> None:
        index = bisect_right(starts, at) - 1
        first = at - starts[index]
        view[:] = frame.gaps[index][first : first + len(view)]

    return read_into


def _public_root(out: Output, recipe: Recipe, contents: Contents) -> bytes | None:
    """Return what the signature is about; None without one."""
    if recipe.signer is None:
        return None
    start = contents.starts[0]
    return public_root(
        out.read_into,
        contents.size,
        recipe.kind,
        (start, start + contents.room),
        recipe.file_id,
        recipe.epoch,
    )


class _Holes:
    """Writes the bytes of pools, and the frame between them.

    Attributes:
        checksums: CRC-32 of each stored tensor so far; zeros unless they are wanted.
    """

    def __init__(self, out: Output, frame: Frame, *, checksums: bool) -> None:
        self._out, self._frame, self._wanted = out, frame, checksums
        self._hole = 0
        self.checksums: list[int] = []
        out.write(frame.gaps[0])
        for at in range(0, frame.holes[0], len(_ZEROS)):
            out.write(_ZEROS[: frame.holes[0] - at])
        self._left = 0

    def _next(self) -> None:
        """Go on to the next hole, over what lies before it."""
        self._hole += 1
        self._out.write(self._frame.gaps[self._hole])
        if self._hole < len(self._frame.holes):
            self._left = self._frame.holes[self._hole]
            self.checksums.append(0)

    def put(self, view: memoryview) -> None:
        """Write the next bytes of pools."""
        from safemodel._build.checksums import crc32

        while view:
            while not self._left:
                self._next()
            piece = view[: self._left]
            if self._wanted:
                self.checksums[-1] = crc32(piece, self.checksums[-1])
            self._out.write(piece)
            self._left -= len(piece)
            view = view[len(piece) :]
        self._out.final()

    def end(self) -> None:
        """Write what lies behind the last hole."""
        while not self._left and self._hole < len(self._frame.holes):
            self._next()
        if self._left:
            raise AssertionError("pools are shorter than their holes")
        self._out.flush()
