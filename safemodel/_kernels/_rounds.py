"""The instructions of the kernels of `permute`: where their rules and contracts are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from safemodel._kernels._chacha import BATCH, RUN, SOON, WORDS
from safemodel._kernels._lines import (
    FEW,
    LINE,
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

PAIR = 2
"""Tiles that are worked on together, so that their lines are written side by side."""

FAR = 4 * FEW // 2
"""Words of the four layers of switches of 16 lines."""


_LINE = ir.VectorType(I64, LINE // 8)
_BLOCK_BYTES = 4 * WORDS  # of a keystream
_I32 = ir.IntType(32)
_FEW32, _FEW64 = ir.VectorType(_I32, FEW), ir.VectorType(I64, FEW)


def step_of(size: int) -> int:
    """Return the words of as many layers as reach every lane of a line."""
    lanes = lanes_of(size)
    return (lanes.bit_length() - 1) * (lanes // 2)


def words_of(size: int, near: int) -> int:
    """Return the words of the switches of a tile or of a chunk.

    near: how often layers that reach every lane are taken.
    """
    return near * FEW * step_of(size) + lanes_of(size) * FAR


def tiles_together(size: int, near: int) -> int:
    """Return of how many tiles, or chunks, words are made at once.

    They are whole batches of a keystream, and whole pairs of tiles.
    """
    blocks = words_of(size, near) * max(lanes_of(size) // 8, 1) // _BLOCK_BYTES
    return max(BATCH // math.gcd(BATCH, blocks), PAIR if near == 1 else 1)


class _Words:
    """The words of the switches of tiles or chunks, made a few at a time.

    What makes them is called as `_chacha.keystream` says. A kernel is told in four
    parameters: its address, the state, the number of the keystream of tile 0, and room.
    """

    def __init__(self, code: Code, args: list[Any], size: int, near: int) -> None:
        self.code = code
        self.maker, self.state, self.number, self.room = args
        self.each = words_of(size, near)
        self.together = tiles_together(size, near)
        self.blocks = self.each * max(lanes_of(size) // 8, 1) // _BLOCK_BYTES

    def make(self, t: Number, first: Number, base: Any, offsets: Any) -> None:
        """Write those of a tile and some after it, unless that is done already.

        Args:
            t: The tile.
            first: The one that was the first.
            base: Where what will be read next is counted from.
            offsets: What that is; see `_chacha.keystream`.
        """
        code, build = self.code, self.code.build
        inside = t % self.together
        is_next = build.icmp_unsigned("==", inside.value, I64(0))
        is_first = build.icmp_unsigned("==", t.value, first.value)
        with build.if_then(build.or_(is_next, is_first)):
            code.call(
                self.maker,
                self.state,
                self.number + t // BLOCK,
                (t - inside) % BLOCK * self.blocks,
                code.number(self.together * self.blocks // BATCH),
                self.room,
                base,
                offsets,
            )

    def in_order(self) -> Any:
        """Return offsets for `make` of what lies together; before the first loop."""
        offsets = self.code.room(SOON, I64)
        with self.code.loop(0, SOON) as n:
            self.code.put(offsets, n, n * (RUN * LINE))
        return offsets

    def of(self, t: Number) -> Number:
        """Return where in the room the words of a tile begin."""
        return t % self.together * self.each


class _Deal:
    """What both kernels of the first round take, in this order.

    source, target, pieces, columns, tile, and four of `_Words`; first, last, tiles,
    blocks, and how many pieces there are to choose from.
    """

    def __init__(self, code: Code, size: int) -> None:
        self.code, self.size, self.lanes = code, size, lanes_of(size)
        self.room = room_for_lines(code, size)
        self.source, self.target, self.pieces, self.columns, self.tile = code.args[:5]
        self.words = _Words(code, code.args[5:9], size, 1)
        self.bits = self.words.room
        self.first, self.last, self.tiles, self.blocks, self.count = code.args[9:]
        self.begins = code.room(FEW * self.lanes, _I32)
        self.starts = code.room(PAIR * self.lanes, I64)
        # Where runs of lines begin: first those at the start of each piece.
        self.soon = code.room(max(SOON, PAIR * self.lanes), I64)
        self.places = code.room(FEW, I64)
        self.beside = code.room(PAIR * max(self.lanes, FEW), _LINE)

    def pairs(self) -> Any:
        """Write a loop over pairs of tiles; gives the half of their numbers."""
        return self.code.loop(self.first // PAIR, self.last // PAIR)

    def at(self, t: Number) -> tuple[Number, Number]:
        """Return where the words of a tile begin: of the near layers, of the far."""
        start = self.words.of(t)
        return start, start + FEW * step_of(self.size)

    def list_pieces(self, t: Number) -> None:
        """List where the pieces of a pair of tiles begin, and those of the next."""
        code, both = self.code, PAIR * self.lanes
        after = code.choose(t + PAIR < self.tiles, t + PAIR, t)
        size = FEW * self.lanes * self.size
        with code.loop(0, both) as x:
            piece = code.get(self.pieces, t * self.lanes + x, 4)
            code.refuse(piece.reaches(self.count))
            code.put(self.starts, x, piece * size)
            piece = code.get(self.pieces, after * self.lanes + x, 4)
            for k in range(max(SOON // both, 1)):
                code.put(self.soon, x + k * both, piece * size + k * RUN * LINE)

    def listed(self, entries: Any, k: Number) -> Any:
        """Return a list of pieces from those of the k-th tile of a pair on."""
        return self.code.place(entries, k * self.lanes, ir.IntType(8), 8)

    def write_beside(self, count: int, lines: Lines, *, stream: bool) -> None:
        """Write lines that are in `beside`: two by two, where the first of them goes.

        Memory takes 128 bytes in the time of 64, if they come one after the other.

        Args:
            count: How many times two lines.
            lines: Where they go, each two to one of these and what follows it.
            stream: Write past the caches.
        """
        code, size = self.code, self.lanes * self.size
        with code.loop(0, count) as x:
            place = lines.place(code, x, ir.IntType(8), size)
            for n in range(PAIR * size // LINE):
                read = code.place(
                    self.beside, x * (PAIR * size // LINE) + n, _LINE, LINE
                )
                line = code.build.load(read, align=aligned_to(self.size))
                to = code.place(place, n, _LINE, LINE)
                align = LINE if stream else aligned_to(self.size)
                store = code.build.store(line, to, align=align)
                if stream:
                    mark = code.module.add_metadata([ir.Constant(_I32, 1)])
                    store.set_metadata("nontemporal", mark)

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
            # Else the lines of two tiles would not be side by side.
            code.refuse(code.build.trunc(column.value, ir.IntType(1)))
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
    far = Network(steps=("switch",), size=size, few=True)
    step = step_of(size)

    def write(code: Code) -> None:
        deal = _Deal(code, size)
        lanes, room = deal.lanes, deal.room
        with deal.pairs() as pair:
            t = pair * PAIR
            deal.list_pieces(t)
            deal.list_columns(t)
            deal.words.make(t, deal.first, deal.source, deal.soon)
            with code.loop(0, PAIR) as k, code.loop(0, FEW) as i:
                near_at, _ = deal.at(t + k)
                # Pieces are anywhere: without this, every tile waits for its lines.
                ahead = Lines(deal.source, i, listed=deal.listed(deal.soon, k))
                prefetch(code, ahead, lanes, size)
                read = Lines(deal.source, i, listed=deal.listed(deal.starts, k))
                made = Lines(deal.tile, (k * FEW + i) * lanes)
                near.write(code, read, made, deal.bits, near_at + i * step, room=room)
            with code.loop(0, lanes) as r:
                with code.loop(0, PAIR) as k:
                    _, far_at = deal.at(t + k)
                    read = Lines(deal.tile, k * (FEW * lanes) + r, lanes)
                    made = Lines(deal.beside, k, PAIR)
                    far.write(code, read, made, deal.bits, far_at + r * FAR, room=room)
                deal.list_rows(t, r)
                made = Lines(deal.target, 0, listed=deal.places)
                deal.write_beside(FEW, made, stream=True)

    return write


def gather(size: int, *, stream: bool) -> Writer:
    """Return what writes `permute.gather`; see `_Deal`.

    stream: the target begins at a multiple of 64 bytes.
    """
    near = Network(steps=("back", "turn"), size=size)
    far = Network(steps=("back",), size=size, few=True)
    step = step_of(size)

    def write(code: Code) -> None:
        deal = _Deal(code, size)
        lanes, room = deal.lanes, deal.room
        with deal.pairs() as pair:
            t = pair * PAIR
            deal.list_pieces(t)
            deal.list_columns(t)
            # What is written next is asked for, if it is not written past the caches.
            deal.words.make(t, deal.first, deal.target, deal.soon)
            with code.loop(0, lanes) as r:
                deal.list_rows(t, r)
                with code.loop(0, PAIR) as k:
                    _, far_at = deal.at(t + k)
                    # The lines of the next pair are beside these, but where blocks end.
                    ahead = Lines(deal.source, k + PAIR, listed=deal.places)
                    prefetch(code, ahead, FEW, size)
                    read = Lines(deal.source, k, listed=deal.places)
                    made = Lines(deal.tile, k * (FEW * lanes) + r, lanes)
                    far.write(code, read, made, deal.bits, far_at + r * FAR, room=room)
            with code.loop(0, PAIR) as k, code.loop(0, FEW // PAIR) as i:
                near_at, _ = deal.at(t + k)
                with code.loop(0, PAIR) as n:
                    line = i * PAIR + n
                    if not stream:
                        ahead = Lines(
                            deal.target, line, listed=deal.listed(deal.soon, k)
                        )
                        prefetch(code, ahead, lanes, size, write=True)
                    read = Lines(deal.tile, (k * FEW + line) * lanes)
                    made = Lines(deal.beside, n, PAIR)
                    at = near_at + line * step
                    near.write(code, read, made, deal.bits, at, room=room)
                made = Lines(deal.target, i * PAIR, listed=deal.listed(deal.starts, k))
                deal.write_beside(lanes, made, stream=stream)

    return write


def stir(size: int, *, back: bool) -> Writer:
    """Return what writes `permute.stir`, or `unstir`.

    Its parameters: pool, four of `_Words`, first, last.
    """
    lanes, step = lanes_of(size), step_of(size)
    switch = "back" if back else "switch"
    near = Network(steps=(switch, "turn", switch), size=size)
    far = Network(steps=(switch,), size=size, few=True)

    def after(lines: Lines) -> Lines:
        """Return the same lines of the next chunk."""
        return lines._replace(first=lines.first + FEW * lanes)

    def write(code: Code) -> None:
        pool, first, last = code.args[0], *code.args[5:]
        words, room = _Words(code, code.args[1:5], size, 2), room_for_lines(code, size)
        bits = words.room
        in_order = words.in_order()

        def all_near(line: Number, at: Number) -> None:
            with code.loop(0, FEW) as i:
                lines = Lines(pool, line + i * lanes)
                if not back:
                    prefetch(code, after(lines), lanes, size)
                near.write(code, lines, lines, bits, at + i * (2 * step), room=room)

        def all_far(line: Number, at: Number) -> None:
            with code.loop(0, lanes) as r:
                lines = Lines(pool, line + r, lanes)
                if back:
                    prefetch(code, after(lines), FEW, size)
                far.write(
                    code, lines, lines, bits, at + r * FAR + 2 * FEW * step, room=room
                )

        with code.loop(first, last) as c:
            ahead = code.place(
                pool, (c + 1) * (FEW * lanes), ir.IntType(8), lanes * size
            )
            words.make(c, first, ahead, in_order)
            for part in (all_far, all_near) if back else (all_near, all_far):
                part(c * (FEW * lanes), words.of(c))

    return write
