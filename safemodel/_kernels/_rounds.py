"""The instructions of the kernels of `permute`: where their rules and contracts are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from safemodel._kernels._lines import (
    FEW,
    Lines,
    Network,
    lanes_of,
    prefetch,
    room_for_lines,
)
from safemodel._kernels._native import I64, Code, Number, aligned_to

if TYPE_CHECKING:
    from collections.abc import Callable

    Writer = Callable[[Code], None]

BLOCK = 64
"""Tiles whose lines stay side by side in every row: 4 KiB are written in one place."""

FAR = 4 * FEW // 2
"""Words of the four layers of switches of 16 lines."""


_I32 = ir.IntType(32)
_FEW32, _FEW64 = ir.VectorType(_I32, FEW), ir.VectorType(I64, FEW)


def step_of(size: int) -> int:
    """Return the words of as many layers as reach every lane of a line."""
    lanes = lanes_of(size)
    return (lanes.bit_length() - 1) * (lanes // 2)


def width_of(size: int) -> int:
    """Return the entries of a list of lines."""
    return max(lanes_of(size), FEW)


def bounded(code: Code) -> Number:
    """Write `permute.bounded`: words, draws, refused, rows, columns, first."""
    words, draws, refused, rows, columns, first = code.args
    found = code.room(1, I64)
    code.put(found, 0, 0)
    with code.loop(0, rows) as r, code.loop(0, columns) as k:
        n, bound = r * columns + k, k + first + 1
        product = code.get(words, n, 4) * bound
        code.put(draws, n, product // (1 << 32))
        rest = product % (1 << 32)
        # The remainder costs 20 times the rest, and is below the bound: most words are
        # above it.
        with code.build.if_then(rest.below(bound), likely=False):
            unfair = rest.below(code.number(1 << 32) % bound)
            with code.build.if_then(unfair):
                count = code.get(found, 0)
                code.put(refused, count, n)
                code.put(found, 0, count + 1)
    return code.get(found, 0)


def shuffle(size: int) -> Writer:
    """Return what writes `permute.shuffle`.

    Its parameters: pools, draws, rows, elements of a row, draws of a row, first, back.
    """
    kind, align = ir.IntType(8 * size), aligned_to(size)

    def write(code: Code) -> None:
        pools, draws, rows, width, count, first, back = code.args
        with code.loop(0, rows) as r, code.loop(0, count) as step:
            k = code.choose(back < 1, step, count - 1 - step)
            other = code.get(draws, r * count + k)
            code.refuse(other.reaches(width))
            one = code.place(pools, r * width + other, kind, size)
            two = code.place(pools, r * width + first + k, kind, size)
            held = code.build.load(one, align=align)
            code.build.store(code.build.load(two, align=align), one, align=align)
            code.build.store(held, two, align=align)

    return write


class _Deal:
    """What both kernels of the first round take, in this order.

    source, target, pieces, columns, tile, lists, bits; first, last, tiles, blocks,
    and how many pieces there are to choose from.
    """

    def __init__(self, code: Code, size: int) -> None:
        self.code, self.size, self.lanes = code, size, lanes_of(size)
        self.room = room_for_lines(code, size)
        self.source, self.target, self.pieces, self.columns = code.args[:4]
        self.tile, lists, self.bits = code.args[4:7]
        self.first, self.last, self.tiles, self.blocks, self.count = code.args[7:]
        self.begins = code.room(FEW * self.lanes, _I32)
        self.starts, self.soon, self.places = (
            code.place(lists, n * width_of(size), ir.IntType(8), 8) for n in range(3)
        )

    def words(self, t: Number) -> tuple[Number, Number]:
        """Return where the words of a tile begin: of the near layers, of the far."""
        near = FEW * step_of(self.size)
        start = (t - self.first) * (near + self.lanes * FAR)
        return start, start + near

    def list_pieces(self, t: Number) -> None:
        """List where the pieces of a tile begin, and those of the next."""
        code = self.code
        after = code.choose(t + 1 < self.tiles, t + 1, t)
        size = FEW * self.lanes * self.size
        with code.loop(0, self.lanes) as x:
            piece = code.get(self.pieces, t * self.lanes + x, 4)
            code.refuse(piece.reaches(self.count))
            code.put(self.starts, x, piece * size)
            piece = code.get(self.pieces, after * self.lanes + x, 4)
            code.put(self.soon, x, piece * size)

    def list_columns(self, t: Number) -> None:
        """List where the lines of a block begin in rows r, r + lanes ..., for all r.

        Once for a block: for each tile it would take as long as the switches.
        """
        code = self.code
        starts_block = code.build.icmp_unsigned("==", (t % BLOCK).value, I64(0))
        is_first = code.build.icmp_unsigned("==", t.value, self.first.value)
        with (
            code.build.if_then(code.build.or_(starts_block, is_first)),
            code.loop(0, self.lanes) as r,
            code.loop(0, FEW) as i,
        ):
            entry = (i * self.lanes + r) * self.blocks + t // BLOCK
            column = code.get(self.columns, entry, 4)
            code.refuse(column.reaches(self.tiles))
            place = code.place(self.begins, r * FEW + i, _I32, 4)
            code.build.store(code.build.trunc(column.value, _I32), place)

    def list_rows(self, t: Number, r: Number) -> None:
        """List the lines where rows r, r + lanes ... of a tile go."""
        code, build = self.code, self.code.build
        column = build.load(code.place(self.begins, r, _FEW32, 4 * FEW), align=4)
        column = build.add(column, self._every(t % BLOCK, _FEW32))
        # Without a sign, what is below the number of tiles is large when that is taken
        # off, so the smaller one is the remainder.
        less = build.sub(column, self._every(self.tiles, _FEW32))
        smaller = build.icmp_unsigned("<", column, less)
        column = build.zext(build.select(smaller, column, less), _FEW64)
        rows = build.add(
            build.mul(
                self._every(self.tiles, _FEW64),
                _FEW64([i * self.lanes for i in range(FEW)]),
            ),
            self._every(self.tiles * r, _FEW64),
        )
        line = self.lanes * self.size
        places = build.mul(build.add(rows, column), _FEW64([line] * FEW))
        build.store(places, code.place(self.places, 0, _FEW64, 8), align=8)

    def _every(self, number: Number, kind: Any) -> Any:
        """Return a vector whose elements are one number."""
        build, value = self.code.build, number.value
        if kind.element != I64:
            value = build.trunc(value, kind.element)
        one = build.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, FEW), [0] * FEW)
        return build.shuffle_vector(one, one, zeros)


def spread(size: int) -> Writer:
    """Return what writes `permute.spread`; see `_Deal`."""
    near = Network(steps=("turn", "switch"), size=size)
    far = Network(steps=("switch",), size=size, few=True, stream=True)
    step = step_of(size)

    def write(code: Code) -> None:
        deal = _Deal(code, size)
        lanes, room = deal.lanes, deal.room
        with code.loop(deal.first, deal.last) as t:
            deal.list_pieces(t)
            deal.list_columns(t)
            near_at, far_at = deal.words(t)
            with code.loop(0, FEW) as i:
                read = Lines(deal.source, i, listed=deal.starts)
                made = Lines(deal.tile, i * lanes)
                near.write(code, read, made, deal.bits, near_at + i * step, room=room)
            with code.loop(0, lanes) as r:
                # Pieces are anywhere: without this, every tile waits for its lines.
                ahead = Lines(deal.source, r, listed=deal.soon)
                with code.build.if_then(r < FEW):
                    prefetch(code, ahead, lanes, size)
                deal.list_rows(t, r)
                read = Lines(deal.tile, r, lanes)
                made = Lines(deal.target, 0, listed=deal.places)
                far.write(code, read, made, deal.bits, far_at + r * FAR, room=room)

    return write


def gather(size: int, *, stream: bool) -> Writer:
    """Return what writes `permute.gather`; see `_Deal`.

    stream: the target begins at a multiple of 64 bytes.
    """
    near = Network(steps=("back", "turn"), size=size, stream=stream)
    far = Network(steps=("back",), size=size, few=True)
    step = step_of(size)

    def write(code: Code) -> None:
        deal = _Deal(code, size)
        lanes, room = deal.lanes, deal.room
        with code.loop(deal.first, deal.last) as t:
            deal.list_columns(t)
            near_at, far_at = deal.words(t)
            with code.loop(0, lanes) as r:
                deal.list_rows(t, r)
                # The lines of the next tile are beside these, but where blocks end.
                prefetch(code, Lines(deal.source, 1, listed=deal.places), FEW, size)
                read = Lines(deal.source, 0, listed=deal.places)
                made = Lines(deal.tile, r, lanes)
                far.write(code, read, made, deal.bits, far_at + r * FAR, room=room)
            deal.list_pieces(t)
            with code.loop(0, FEW) as i:
                if not stream:
                    ahead = Lines(deal.target, i, listed=deal.soon)
                    prefetch(code, ahead, lanes, size, write=True)
                read = Lines(deal.tile, i * lanes)
                made = Lines(deal.target, i, listed=deal.starts)
                near.write(code, read, made, deal.bits, near_at + i * step, room=room)

    return write


def stir(size: int, *, back: bool) -> Writer:
    """Return what writes `permute.stir`, or `unstir`: pool, bits, first, last."""
    lanes, step = lanes_of(size), step_of(size)
    switch = "back" if back else "switch"
    near = Network(steps=(switch, "turn", switch), size=size)
    far = Network(steps=(switch,), size=size, few=True)

    def write(code: Code) -> None:
        pool, bits, first, last = code.args
        room = room_for_lines(code, size)

        def all_near(line: Number, at: Number) -> None:
            with code.loop(0, FEW) as i:
                lines = Lines(pool, line + i * lanes)
                if not back:
                    soon(lines, lanes)
                near.write(code, lines, lines, bits, at + i * (2 * step), room=room)

        def all_far(line: Number, at: Number) -> None:
            with code.loop(0, lanes) as r:
                lines = Lines(pool, line + r, lanes)
                if back:
                    soon(lines, FEW)
                far.write(
                    code, lines, lines, bits, at + r * FAR + 2 * FEW * step, room=room
                )

        def soon(lines: Lines, count: int) -> None:
            """Ask for the same lines of the next chunk."""
            ahead = lines._replace(first=lines.first + FEW * lanes)
            prefetch(code, ahead, count, size)

        with code.loop(first, last) as c:
            at = (c - first) * (2 * FEW * step + lanes * FAR)
            for part in (all_far, all_near) if back else (all_near, all_far):
                part(c * (FEW * lanes), at)

    return write
