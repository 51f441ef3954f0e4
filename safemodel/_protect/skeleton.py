"""What a file is without its tensors, and the file again from that and the tensors.

Numbers are little-endian. In order:

1. ``skeleton`` (8 bytes),
2. the size of the file (8), and of all tensor bytes in it (8),
3. the number of places (4): runs of bytes that are one both in the file and in a pool,
4. zlib: for each place the number of its pool (1), the bytes of the file between the
   place before and this one (8), and its own (8), none of them empty; then all bytes
   of the file that are in no place.

Rules:

1. Where a place begins in its pool follows from those before it: a pool is filled in
   the order of the file. What can be computed is not written.
2. The file without its tensors has at most `Limits.max_header_bytes`. Nothing is
   inflated beyond what field 2 and 3 announce, and nothing before that is bounded.
3. Places lie within the file and leave over exactly the bytes that are there.
"""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from itertools import accumulate, chain
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from safemodel._collector import collector_paused
from safemodel._containers.source import Source
from safemodel._protect.encoding import Reader, Writer, inflated_pieces
from safemodel._value import Value
from safemodel.errors import LimitExceededError, MalformedFileError
from safemodel.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from safemodel._protect.anatomy import Anatomy

_MAGIC = b"skeleton"
_PLACE = Struct("<BQQ")
_MAX_SIZE = (1 << 63) - 1
_STEP = 1 << 20
_LEVEL = 6


class Place(NamedTuple):
    """A run of bytes of a pool, and where in the file it belongs.

    Attributes:
        pool: Number of the pool.
        at: Its first byte in the pool.
        start: Its first byte in the file.
        length: Its bytes, at least one.
    """

    pool: int
    at: int
    start: int
    length: int


def take(source: Source, anatomy: Anatomy, *, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the encoded skeleton of a file.

    Args:
        source: The file.
        anatomy: Where its tensors are.
        limits: `Limits.max_header_bytes` applies (rule 2).

    Raises:
        LimitExceededError: Too much of the file is no tensor.
        TruncatedFileError: The file has become shorter.
    """
    with collector_paused():
        places = _places_of(anatomy)
    inside = sum(place.length for place in places)
    _check_rest(anatomy.size - inside, len(places), limits)
    out = Writer()
    out.raw(_MAGIC)
    out.numbers(anatomy.size, inside)
    out.number(len(places), 4)
    packer = zlib.compressobj(_LEVEL)
    end = 0
    rows = bytearray()
    for place in places:
        rows += _PLACE.pack(place.pool, place.start - end, place.length)
        end = place.start + place.length
    out.raw(packer.compress(rows))
    for start, stop in _gaps(places, anatomy.size):
        for at in range(start, stop, _STEP):
            piece = source.view(at, min(_STEP, stop - at))
            out.raw(packer.compress(piece))
    out.raw(packer.flush())
    return out.joined()


class Skeleton(Value):
    """A file without its tensors.

    Attributes:
        size: Bytes of the file.
        places: Where the bytes of pools belong, in the order of the file.
        rest: All other bytes, in the order of the file.
    """

    size: int
    places: tuple[Place, ...]
    rest: memoryview

    def __repr__(self) -> str:
        # What was sealed does not belong into a log.
        return f"<Skeleton of {len(self.rest):,} of {self.size:,} bytes>"

    @classmethod
    def decode(
        cls, data: bytes | memoryview, limits: Limits = DEFAULT_LIMITS
    ) -> Skeleton:
        """Return the skeleton that `take` encoded.

        Args:
            data: The encoding, which may be anybody's words.
            limits: `max_header_bytes` and `max_tensors` apply.

        Raises:
            LimitExceededError: It announces too much.
            MalformedFileError: It is not the encoding of a skeleton.
        """
        packed = Packed(data, limits)
        # It grows in place and is handed out as it is: joining would double it.
        rest = io.BytesIO()
        for _, piece in packed.gaps():
            rest.write(piece)
        return cls(
            size=packed.size, places=packed.places, rest=memoryview(rest.getvalue())
        )


class Packed:
    """An encoded skeleton, of which the places alone are in memory.

    Args:
        data: The encoding, which may be anybody's words.
        limits: `max_header_bytes` and `max_tensors` apply.

    Attributes:
        size: Bytes of the file.
        places: Where the bytes of pools belong, in the order of the file.

    Raises:
        LimitExceededError: It announces too much.
        MalformedFileError: It is not the encoding of a skeleton.
    """

    def __init__(
        self, data: bytes | memoryview, limits: Limits = DEFAULT_LIMITS
    ) -> None:
        reader = Reader(data)
        if reader.raw(len(_MAGIC)) != _MAGIC:
            raise MalformedFileError("not the skeleton of a file", position=0)
        self.size, inside = reader.numbers(2)
        number = reader.at_most("max_tensors", limits.max_tensors)
        if not inside <= self.size <= _MAX_SIZE:
            raise MalformedFileError("a skeleton larger than its file", position=8)
        _check_rest(self.size - inside, number, limits)
        length = number * _PLACE.size
        body = reader.view(reader.left)
        self._pieces = inflated_pieces(body, length + self.size - inside)
        read = io.BytesIO()
        # They end with an error if there are fewer.
        while read.tell() < length:
            read.write(next(self._pieces))
        rows = memoryview(read.getvalue())
        self._first = rows[length:]
        with collector_paused():
            self.places = _read_places(rows[:length], self.size, inside)

    def gaps(self) -> Iterator[tuple[int, memoryview]]:
        """Yield the bytes that are no tensor's in pieces, each after where it begins.

        It can be done once. What is yielded is part of a file that may prove to be
        malformed after the last piece.

        Raises:
            MalformedFileError: There are more or fewer than announced.
        """
        spans = _gaps(self.places, self.size)
        at, stop = next(spans, (self.size, self.size))
        first: list[bytes | memoryview] = [self._first]
        for piece in chain(first, self._pieces):
            view = memoryview(piece)
            while view:
                if at == stop:
                    at, stop = next(spans)
                part = view[: stop - at]
                yield at, part
                at += len(part)
                view = view[len(part) :]


def lengths_of(places: Sequence[Place]) -> tuple[int, ...]:
    """Return how many bytes a file takes of each pool, up to the last it uses."""
    found = [0] * (1 + max((place.pool for place in places), default=-1))
    for place in places:
        found[place.pool] += place.length
    return tuple(found)


def check_lengths(places: Sequence[Place], lengths: Sequence[int]) -> None:
    """Raise unless a file takes all bytes of all pools.

    Raises:
        MalformedFileError: The places are those of other pools.
    """
    used = lengths_of(places)
    if used + (0,) * (len(lengths) - len(used)) != tuple(lengths):
        raise MalformedFileError("the skeleton and the pools are of two files")


class PlainSource(Source):
    """A file that is not there: read from its skeleton and its pools.

    Args:
        skeleton: All that is no tensor.
        lengths: Bytes of each pool there is.
        read_pool: Takes the number of a pool, an offset, and a view that it fills; two
            threads may call it at once.
        name: Path for messages.

    Raises:
        MalformedFileError: The skeleton is that of other pools.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        lengths: Sequence[int],
        read_pool: Callable[[int, int, memoryview], None],
        *,
        name: str = "",
    ) -> None:
        check_lengths(skeleton.places, lengths)
        self.size = skeleton.size
        self.name = name
        self._places = skeleton.places
        self._rest = skeleton.rest
        self._read_pool = read_pool
        self._starts = [place.start for place in skeleton.places]
        # Bytes in places before each, and in all of them.
        self._inside = [0, *accumulate(place.length for place in skeleton.places)]

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.view(offset, size))

    def view(self, offset: int, size: int, ahead: int = 0) -> memoryview:  # noqa: ARG002 - nothing is far away
        self._check(offset, size)
        found = self._gap(offset, size)
        if found is not None:
            return found
        room = bytearray(size)
        self._fill(offset, memoryview(room))
        return memoryview(room).toreadonly()

    def read_into(self, offset: int, target: memoryview) -> None:
        self._check(offset, target.nbytes)
        self._fill(offset, target)

    def _gap(self, offset: int, size: int) -> memoryview | None:
        """Return a span without tensor bytes as it is; None if there are any in it."""
        after = bisect_right(self._starts, offset)
        if after:
            before = self._places[after - 1]
            if offset < before.start + before.length:
                return None
        if after < len(self._starts) and offset + size > self._starts[after]:
            return None
        at = offset - self._inside[after]
        return self._rest[at : at + size]

    def _fill(self, offset: int, target: memoryview) -> None:
        """Fill a view with a span that lies within the file."""
        done, size = 0, target.nbytes
        after = bisect_right(self._starts, offset)
        if after and offset < self._starts[after - 1] + self._places[after - 1].length:
            after -= 1
        while done < size:
            at = offset + done
            last = after == len(self._places)
            start = self.size if last else self._starts[after]
            if at < start:
                step = min(size - done, start - at)
                first = at - self._inside[after]
                target[done : done + step] = self._rest[first : first + step]
            else:
                place = self._places[after]
                step = min(size - done, start + place.length - at)
                part = target[done : done + step]
                self._read_pool(place.pool, place.at + at - start, part)
                after += 1
            done += step


def _places_of(anatomy: Anatomy) -> list[Place]:
    """Return the places of a file's parts, of which some are one run."""
    places: list[Place] = []
    filled: dict[tuple[str, int], int] = {}
    numbers: dict[tuple[str, int], int] = {}
    for part in anatomy.parts:
        kind = part.dtype, part.itemsize
        number = numbers.setdefault(kind, len(numbers))
        at = filled.get(kind, 0)
        filled[kind] = at + part.length
        last = places[-1] if places else Place(-1, 0, 0, 0)
        if not part.length:
            continue
        if last.pool == number and last.start + last.length == part.start:
            places[-1] = last._replace(length=last.length + part.length)
        else:
            places.append(Place(number, at, part.start, part.length))
    return places


def _gaps(places: Sequence[Place], size: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of a file that are in no place."""
    end = 0
    for place in places:
        if place.start > end:
            yield end, place.start
        end = place.start + place.length
    if size > end:
        yield end, size


def _check_rest(rest: int, places: int, limits: Limits) -> None:
    """Raise if there is more besides tensors than a reader allows (rule 2)."""
    if places > limits.max_tensors:
        raise LimitExceededError(
            "max_tensors", allowed=limits.max_tensors, requested=places
        )
    if rest > limits.max_header_bytes:
        raise LimitExceededError(
            "max_header_bytes", allowed=limits.max_header_bytes, requested=rest
        )


def _read_places(rows: memoryview, size: int, inside: int) -> tuple[Place, ...]:
    """Return all places, which take up so many bytes of the file (rule 3)."""
    places: list[Place] = []
    filled: dict[int, int] = {}
    end = total = 0
    last = -1
    for pool, gap, length in _PLACE.iter_unpack(rows):
        if not length:
            raise MalformedFileError("a place of no bytes")
        if not gap and pool == last:
            raise MalformedFileError("a run of bytes in two places")
        start = end + gap
        end = start + length
        if end > size:
            raise MalformedFileError("a place behind the end of the file")
        at = filled.get(pool, 0)
        filled[pool] = at + length
        places.append(Place(pool, at, start, length))
        total += length
        last = pool
    if total != inside:
        raise MalformedFileError("places and tensor bytes differ in number")
    return tuple(places)
