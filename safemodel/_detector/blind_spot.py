"""Where encrypted data could lie in a file unseen, and what takes the room away."""

from __future__ import annotations

from collections import defaultdict
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from safemodel._detector import evenness
from safemodel._detector.layouts import FLOATS, PACKED
from safemodel._detector.results import BlindSpot, Remedy, Room
from safemodel._detector.room import (
    Judged,
    Stretch,
    Way,
    needed_of,
    ways,
    width_of,
    would_find,
)  # fmt: skip
from safemodel.scrub import Scrub

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safemodel._detector.census import Known
    from safemodel._detector.judging import Judge
    from safemodel._detector.statistics import Statistics

_MOST_BITS = 52


class _Space(NamedTuple):
    """Room, and the ways to use it."""

    dtype: str
    kind: str
    numbers: int
    ways: tuple[Way, ...]

    @property
    def scrubbed(self) -> int:
        """Low bits that a scrub overwrites at most; slack is not written at all."""
        if self.kind == "slack":
            return 0
        return Scrub(bits=_MOST_BITS).bits_for(self.dtype)

    def nbytes(self, bits: int = 0) -> int:
        """Return the bytes it holds at most, once so many low bits are overwritten."""
        less = min(bits, self.scrubbed)
        return ceil(max(way.nbytes(less) for way in self.ways))

    @property
    def tops(self) -> tuple[int, int]:
        """Bits to overwrite, for what every number can hold, and for all."""
        every = [max((one.top for one in way.stretches), default=0)
                 for way in self.ways]  # fmt: skip
        return every[0], max(every)


def blind_spot(
    tensors: Sequence[Known],
    statistics: Statistics,
    *,
    judge: Judge | None = None,
    names: tuple[str, str] = ("", ""),
    replaced: int = 0,
) -> BlindSpot:
    """Return where encrypted data could lie unseen.

    Args:
        tensors: All of the file.
        statistics: What the tests found.
        judge: Who decides; None if it is by no test that is known here.
        names: The file, and what to call the new one, in calls and commands.
        replaced: Low bits that seem to be replaced: a remedy for those as well.
    """
    spaces = [one for one in _spaces(tensors, statistics, judge) if one.numbers]
    rooms = tuple(_room(space) for space in spaces)
    bits: dict[str, int] = {}
    for room in sorted(rooms, key=lambda one: one.kind != "weights"):
        if room.kind != "slack":
            bits.setdefault(room.dtype, room.bits)
    kept = [one for one in spaces if one.kind != "slack"]
    remedies = tuple(
        _remedy(number, kept, names) for number in _steps(spaces, replaced)
    )
    return BlindSpot(
        bits=bits,
        bytes=sum(room.bytes for room in rooms),
        rooms=rooms,
        remedies=remedies,
        left=min(
            (one.left for one in remedies), default=sum(room.bytes for room in rooms)
        ),
    )


def _spaces(
    tensors: Sequence[Known], statistics: Statistics, judge: Judge | None
) -> Iterable[_Space]:
    """Yield what there is of each dtype: tested weights, others, slack."""
    results = {one.name: one for one in statistics.tensors if one.uniformity}
    tested: dict[str, list[Judged]] = defaultdict(list)
    others: dict[tuple[str, str], list[Known]] = defaultdict(list)
    for known in tensors:
        result = results.get(known.name)
        if known.role == "slack":
            others["slack", known.dtype].append(known)
        elif result is None or result.role != "weight":
            others["untested", known.dtype].append(known)
        else:
            each = 2 if known.dtype in PACKED else 1
            found_in = evenness.testable(known.dtype, result.uniformity, result.octaves)
            tested[known.dtype].append(
                Judged(known.size * each, result.constant, found_in)
            )
    fine = evenness.by_dtype(statistics.uniformity)
    coarse = evenness.by_dtype(statistics.octaves)
    for dtype, some in tested.items():
        whole = evenness.testable(dtype, fine.get(dtype, {}), coarse.get(dtype, {}))
        needed = needed_of(statistics.ledger, dtype)
        judged = [] if judge is None else would_find(statistics, dtype, judge)
        width = width_of(dtype, 1)
        numbers = sum(one.numbers for one in some)
        found = ways(dtype, width, some, whole, needed, judged)
        yield _Space(dtype, "weights", numbers, found)
    for (kind, dtype), some_known in others.items():
        yield _plain(kind, dtype, some_known)


def _plain(kind: str, dtype: str, tensors: Sequence[Known]) -> _Space:
    """Return the room of tensors that no test of evenness looks at."""
    itemsize = tensors[0].itemsize
    is_slack = kind == "slack"
    each = 2 if dtype in PACKED and not is_slack else 1
    numbers = sum(one.size for one in tensors) * each
    width = 8 * itemsize if is_slack else width_of(dtype, itemsize)
    way = Way(width, 1.0, (Stretch(numbers, 0, width),))
    return _Space(dtype, kind, numbers, (way,))


def _room(space: _Space) -> Room:
    full, most = space.ways[0], space.ways[-1]
    return Room(
        dtype=space.dtype,
        kind=space.kind,
        numbers=space.numbers,
        bits=space.tops[0],
        partly=max(space.tops),
        share=round(most.share if most is not full else 1.0, 6),
        bytes=space.nbytes(),
        scrubbed=space.scrubbed,
    )


def _steps(spaces: Sequence[_Space], replaced: int) -> list[int]:
    """Return numbers of low bits worth overwriting, the fewest first."""
    is_slack = any(one.kind == "slack" for one in spaces)
    found = {0}
    for space in spaces:
        if space.scrubbed:
            every, most = space.tops
            found |= {every} if space.kind == "weights" else set()
            found.add(min(replaced, space.scrubbed))
            found.add(min(most, space.scrubbed))
    return sorted(found if is_slack else found - {0})


def _remedy(bits: int, spaces: Sequence[_Space], names: tuple[str, str]) -> Remedy:
    from shlex import quote

    source, out = names
    given = f"{source!r}, {out!r}" if source else "f, out"
    scrub = f", scrub=Scrub(bits={bits})" if bits else ""
    words = f"{quote(source)} {quote(out)}" if source else "SRC DST"
    change: dict[str, float] = {}
    for dtype in sorted({one.dtype for one in spaces} & FLOATS.keys()):
        less = Scrub(bits=bits).bits_for(dtype) if bits else 0
        change[dtype] = (2**less - 1) * 2.0 ** -FLOATS[dtype].mantissa
    return Remedy(
        bits=bits,
        call=f"disarm({given}{scrub})",
        command=f"safemodel disarm {words}" + (f" --scrub-bits {bits}" if bits else ""),
        left=sum(space.nbytes(bits) for space in spaces),
        change=change,
    )
