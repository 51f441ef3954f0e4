"""Networks of random switches over cache lines, as instructions for whole lines.

A line is 64 bytes, 32, 16, 8 or 4 elements, its lanes; of elements of one byte it is 32
bytes. A network reads a few lines, moves their elements about, and writes as many
lines.

- A layer of switches: lines r and r + h, for every r whose bit h is not set, exchange
  the elements of those lanes whose bit is set in a word of ``bits``. Layers are taken
  for h = 1, 2, 4 ... below the number of lines, so that of all its layers together an
  element is moved to any of the lines with the same chance.
- A transposition: lane l of line r changes place with lane r of line l. That is layers
  too, for the same h in any order: elements that are h lanes apart change places
  between lines that are h apart.

Elements are never looked at, so that every bit of them survives. The processor is taken
to be little-endian.

Rules, for every network:

1. Line n is the 64 bytes from 64 * n, or the 32 from 32 * n.
2. ``bits`` has a word for each switch of two lines, from ``at`` on, and one bit of the
   word for each lane, lowest first. Layer after layer, switch after switch.

Twice as many instructions in a row take LLVM more than twice the time. So layers are
taken in stages: those of a few h, which join a few lines. A stage is a loop over groups
of lines; between stages, lines are in the first cache.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from llvmlite import ir

from safemodel._kernels._native import I64, Code, Number, aligned_to

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = 64
"""Bytes of a line of processors, and of the lines here but for one size."""

MAX_LANES = 32

FEW = 16
"""Lines a network reads that does not read one line a lane."""

_TOGETHER = {1: 3, 2: 3, 4: 4, 8: 4, 16: 3}
"""Different h of a stage, by the size of elements: 3 join 8 lines, 4 join 16.

With 16 lines of 4 bytes, kernels are 2 to 7 % faster and compile for 0.1 s longer; with
32 lines there is no stage that processors have registers for."""

_I32 = ir.IntType(32)


class Lines(NamedTuple):
    """The lines a network reads or writes.

    Attributes:
        base: Where line 0 begins.
        first: The number of its first line.
        apart: By how much the numbers of its lines differ.
        listed: Where there are 64-bit numbers, one for each of its lines: where line x
            begins is then the sum of the x-th, in bytes, and of where ``first`` does.
    """

    base: Any
    first: Number | int
    apart: int = 1
    listed: Any = None

    def place(self, code: Code, x: Number | int, kind: Any, size: int) -> Any:
        """Return the address of line x of the network; a line has so many bytes."""
        if self.listed is None:
            line = code.number(x) * self.apart + self.first
            return code.place(self.base, line, kind, size)
        start = code.place(self.base, self.first, ir.IntType(8), size)
        return code.place(start, code.get(self.listed, x), kind, 1)


class Layer(NamedTuple):
    """One layer of a network.

    Attributes:
        kind: "switch" or "turn".
        h: How far lines are apart that exchange elements.
        first: Of switches, the place of its first word.
    """

    kind: str
    h: int
    first: int = 0


def lanes_of(size: int) -> int:
    """Return the lanes of a line of elements of so many bytes."""
    return min(LINE // size, MAX_LANES)


def layers(steps: tuple[str, ...], lines: int) -> list[Layer]:
    """Return the layers of a network of so many lines.

    steps: "switch" for layers of switches, "back" for the same layers from the last
    to the first, which takes "switch" back, and "turn" for the transposition.

    Steps that run backwards find their words where the steps they take back did: the
    last of them has the first words.
    """
    heights = [1 << k for k in range(lines.bit_length() - 1)]
    half = lines // 2
    made: list[Layer] = []
    runs = sum(step != "turn" for step in steps)
    seen = 0
    for step in steps:
        if step == "turn":
            made += [Layer("turn", h) for h in heights]
            continue
        run = seen if step == "switch" else runs - 1 - seen
        first = run * len(heights) * half
        these = [Layer("switch", h, first + k * half) for k, h in enumerate(heights)]
        made += these if step == "switch" else these[::-1]
        seen += 1
    return made


def stages(todo: list[Layer], together: int) -> list[list[Layer]]:
    """Divide layers into stages of so many different h at most.

    Layers of one transposition may change places.
    """
    todo = list(todo)
    made: list[list[Layer]] = [[]]
    while todo:
        turns = next((n for n, t in enumerate(todo) if t.kind != "turn"), len(todo))
        later = [layer.h for layer in todo[turns:]]
        # What the next switches need last comes first, and leaves room for the others.
        choice = sorted(
            todo[: max(turns, 1)],
            key=lambda layer: later.index(layer.h) if layer.h in later else 0,
            reverse=True,
        )
        have = {layer.h for layer in made[-1]}
        fits = [layer for layer in choice if layer.h in have]
        if not fits and len(have) == together:
            made.append([])
            continue
        taken = (fits or choice)[0]
        made[-1].append(taken)
        todo.remove(taken)
    return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A network, to be written into kernels.

    Attributes:
        steps: See `layers`.
        size: Bytes of an element.
        few: 16 lines; otherwise as many as a line has lanes, which "turn" needs.
    """

    steps: tuple[str, ...]
    size: int
    few: bool = False

    @property
    def lines(self) -> int:
        """How many lines it reads, and writes."""
        return FEW if self.few else lanes_of(self.size)

    def write(
        self,
        code: Code,
        source: Lines,
        target: Lines,
        bits: Any,
        at: Number,
        *,
        room: Any,
    ) -> None:
        """Write its instructions.

        bits, at: see rule 2.
        room: for lines between stages, see `room_for_lines`.
        """
        todo = stages(layers(self.steps, self.lines), _TOGETHER[self.size])
        between = Lines(room, 0)
        for n, stage in enumerate(todo):
            heights = {layer.h for layer in stage}
            mine = [r for r in range(self.lines) if not r & ~sum(heights)]
            others = [r for r in range(self.lines) if not r & sum(heights)]
            with _groups(code, others) as group:
                regs = {}
                for r in mine:
                    place = self._place(code, between if n else source, group + r)
                    regs[r] = code.build.load(place, align=aligned_to(self.size))
                for layer in stage:
                    self._layer(code, regs, layer, others, group, bits, at)
                last = n == len(todo) - 1
                for r in mine:
                    place = self._place(code, target if last else between, group + r)
                    code.build.store(regs[r], place, align=aligned_to(self.size))

    def _place(self, code: Code, lines: Lines, x: Number) -> Any:
        """Return the address of line x of some, as that of 64-bit words."""
        size = lanes_of(self.size) * self.size
        kind = ir.VectorType(I64, size // 8)
        return lines.place(code, x, kind, size)

    def _layer(
        self,
        code: Code,
        regs: dict[int, Any],
        layer: Layer,
        others: list[int],
        group: Number,
        bits: Any,
        at: Number,
    ) -> None:
        """Take one layer, of the lines of one group."""
        h = layer.h
        # Word k is that of lines r and r + h: k is r without its bit h.
        above = len(others) > 1 and others[1] > h
        start = at + layer.first + (group // 2 if above else group)
        for r in [r for r in regs if not r & h]:
            pair = regs[r], regs[r + h]
            if layer.kind == "switch":
                word = start + (r // (2 * h) * h + r % h)
                pair = _switched(code, pair, bits, word, self.size)
            elif h * self.size < 8:
                pair = _shifted(code.build, *pair, h * self.size)
            else:
                pair = _moved(code.build, *pair, h * self.size)
            regs[r], regs[r + h] = pair


@contextmanager
def _groups(code: Code, firsts: list[int]) -> Iterator[Number]:
    """Write a loop over groups of lines; gives the first line of a group.

    firsts: those lines: 0, and multiples of another.
    """
    if len(firsts) == 1:
        yield code.number(0)
        return
    with code.loop(0, len(firsts)) as n:
        yield n * firsts[1]


def room_for_lines(code: Code, size: int) -> Any:
    """Return where as many lines may be as any network has."""
    lanes = lanes_of(size)
    return code.room(max(lanes, FEW), ir.VectorType(I64, lanes * size // 8))


def _switched(
    code: Code, pair: tuple[Any, Any], bits: Any, at: Number, size: int
) -> tuple[Any, Any]:
    """Exchange elements of two lines where a bit says so."""
    build, lanes, whole = code.build, lanes_of(size), pair[0].type
    kind = ir.IntType(max(lanes, 8))
    word = build.load(code.place(bits, at, kind, max(lanes, 8) // 8))
    if lanes < 8:
        # LLVM knows no good way to move elements of 16 bytes: two halves of one have
        # a bit each, so that dcba becomes ddccbbaa.
        word = build.and_(word, kind(0x0F))
        word = build.and_(build.or_(word, build.shl(word, kind(2))), kind(0x33))
        word = build.and_(build.or_(word, build.shl(word, kind(1))), kind(0x55))
        word = build.or_(word, build.shl(word, kind(1)))
        lanes = 8
    swap = build.bitcast(word, ir.VectorType(ir.IntType(1), lanes))
    elements = ir.VectorType(ir.IntType(whole.count * 64 // lanes), lanes)
    one, two = (build.bitcast(line, elements) for line in pair)
    first = build.bitcast(build.select(swap, two, one), whole)
    return first, build.bitcast(build.select(swap, one, two), whole)


def _shifted(build: Any, one: Any, two: Any, apart: int) -> tuple[Any, Any]:
    """Exchange the parts of 64-bit words that are fewer than eight bytes apart."""
    low = sum(0xFF << 8 * n for n in range(8) if not n & apart)
    words = one.type.count
    mask = ir.Constant(one.type, [low] * words)
    rest = ir.Constant(one.type, [low ^ (1 << 64) - 1] * words)
    by = ir.Constant(one.type, [8 * apart] * words)
    # Masks come last: "this one or that one" is a single instruction then.
    up, down = build.shl(two, by), build.lshr(one, by)
    first = build.or_(build.and_(one, mask), build.and_(up, rest))
    second = build.or_(build.and_(down, mask), build.and_(two, rest))
    return first, second


def _moved(build: Any, one: Any, two: Any, apart: int) -> tuple[Any, Any]:
    """Exchange 64-bit words that are eight bytes or more apart."""
    by, words = apart // 8, one.type.count
    picks = (
        [words + n - by if n & by else n for n in range(words)],
        [words + n if n & by else n + by for n in range(words)],
    )
    kind = ir.VectorType(_I32, words)
    first, second = (
        build.shuffle_vector(one, two, ir.Constant(kind, pick)) for pick in picks
    )
    return first, second


def prefetch(
    code: Code, lines: Lines, count: int, size: int, *, write: bool = False
) -> None:
    """Ask for the first of some lines before they are needed; see `Code.prefetch`."""
    for x in range(count):
        place = lines.place(code, x, ir.IntType(8), lanes_of(size) * size)
        code.prefetch(place, write=write)
