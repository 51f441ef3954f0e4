"""Networks of random switches over cache lines, as instructions for whole lines.

A line is 64 bytes, 32, 16, 8 or 4 elements, its lanes; of elements of one byte it is 32
bytes. A network reads a few lines at once, moves their elements about in registers, and
writes as many lines.

- A layer of switches: lines r and r + h, for every r whose bit h is not set, exchange
  the elements of those lanes whose bit is set in a word of ``bits``. Layers are taken
  for h = 1, 2, 4 ... below the number of lines, so that of all its layers together an
  element is moved to any of the lines with the same chance.
- A transposition: lane l of line r changes place with lane r of line l.

Numba has no words for either, and loops that say the same are not turned into them:
they are written for LLVM here, once for every size of elements. Elements are never
looked at, so that every bit of them survives. The processor is taken to be
little-endian. Under ``NUMBA_DISABLE_JIT=1`` a network
is the plain function below.

Rules, for every network:

1. ``source`` and ``target`` are C-contiguous, of one type; line n is the 64 bytes
   from 64 * n, or the 32 from 32 * n. A network reads the lines
   ``source_lines[x] + source_first`` for x = 0, 1 ... and writes likewise.
2. ``bits`` has a word for each switch of two lines, from ``at`` on, and one bit of the
   word for each lane, lowest first. Layer after layer, switch after switch.
3. `prefetch` asks for the lines a network will read soon, as many as a line has lanes.
   It may be wrong about them: nothing is read.
4. A network that streams writes whole lines of 64 bytes past the caches. It may be used
   only where ``target`` begins at a multiple of 64 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba.core import config, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Network = Callable[..., None]

LINE = 64
"""Bytes of a line of processors, and of the lines here but for one size."""

MAX_LANES = 32
"""A network of 64 lines of 64 lanes takes LLVM seconds to compile, and no less time."""

FEW = 16
"""Lines a network reads that does not read one line a lane."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()


def network(*steps: str, few: bool = False, stream: bool = False) -> Network:
    """Return a network, to be called by kernels.

    steps: "switch" for layers of switches, "back" for the same layers from the last
    to the first, which takes "switch" back, and "turn" for the transposition.
    few: 16 lines; otherwise as many as a line has lanes, which "turn" needs.
    stream: see rule 4.
    """
    if config.DISABLE_JIT:  # type: ignore[attr-defined]  # set at run time
        return _plain(steps, few=few)
    return _compiled(steps, few=few, stream=stream)


def prefetch() -> Network:
    """Return what asks for lines before they are needed, to be called by kernels."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]  # set at run time
        return lambda *_lines: None

    @intrinsic
    def ask(_typing: Any, source: Any, source_lines: Any, source_first: Any) -> Any:
        signature = types.void(source, source_lines, source_first)
        size = source.dtype.bitwidth // 8

        def generate(context: Any, build: Any, signature: Any, args: Any) -> Any:
            values = _values(context, build, signature, args)
            _emit_prefetch(build, values, min(LINE // size, MAX_LANES), size)
            return context.get_dummy_value()

        return signature, generate

    return ask


def _values(context: Any, build: Any, signature: Any, args: Any) -> list[Any]:
    """Return arguments: of arrays, where their elements begin."""
    return [
        context.make_array(kind)(context, build, arg).data
        if isinstance(kind, types.Array)
        else arg
        for kind, arg in zip(signature.args, args, strict=True)
    ]


def _emit_prefetch(build: Any, values: list[Any], lanes: int, size: int) -> None:
    """Write a prefetch for each line: to be read, and to be kept in every cache."""
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
    known = build.module.globals.get(name)
    function = known or ir.Function(build.module, kind, name)
    for x in range(lanes):
        place = _place(build, values[0], values[1], values[2], x, lanes * size)
        place = build.bitcast(place, _BYTES)
        build.call(function, [place, *(ir.Constant(_I32, n) for n in (0, 3, 1))])


def _order(steps: tuple[str, ...], lines: int) -> list[tuple[str, int, int]]:
    """Return each layer in turn: kind, h, and where its words begin.

    Steps that run backwards find their words where the steps they take back did: the
    last of them has the first words.
    """
    heights = [1 << k for k in range(lines.bit_length() - 1)]
    half = lines // 2
    layers: list[tuple[str, int, int]] = []
    runs = sum(step != "turn" for step in steps)
    seen = 0
    for step in steps:
        if step == "turn":
            layers.append(("turn", 0, 0))
            continue
        run = seen if step == "switch" else runs - 1 - seen
        first = run * len(heights) * half
        these = [("switch", h, first + k * half) for k, h in enumerate(heights)]
        layers += these if step == "switch" else these[::-1]
        seen += 1
    return layers


def _plain(steps: tuple[str, ...], *, few: bool) -> Network:
    """Return a network as a function of arrays."""

    def net(
        source: NDArray[Any],
        source_lines: NDArray[Any],
        source_first: int,
        target: NDArray[Any],
        target_lines: NDArray[Any],
        target_first: int,
        bits: NDArray[Any],
        at: int,
    ) -> None:
        size = source.dtype.itemsize
        lanes = min(LINE // size, MAX_LANES)
        count = FEW if few else lanes
        view = source.view(np.dtype((np.void, size)))[: source.size // lanes * lanes]
        lines = view.reshape(-1, lanes)[source_lines[:count] + source_first]
        for kind, h, first in _order(steps, count):
            if kind == "turn":
                lines = lines.T.copy()
                continue
            for k, r in enumerate(r for r in range(count) if not r & h):
                word = int(bits[at + first + k])
                swap = [lane for lane in range(lanes) if word >> lane & 1]
                held = lines[r, swap].copy()
                lines[r, swap] = lines[r + h, swap]
                lines[r + h, swap] = held
        out = target.view(np.dtype((np.void, size)))[: target.size // lanes * lanes]
        out.reshape(-1, lanes)[target_lines[:count] + target_first] = lines

    return net


def _compiled(steps: tuple[str, ...], *, few: bool, stream: bool) -> Network:
    """Return a network as instructions."""

    @intrinsic
    def net(
        _typing: Any,
        source: Any,
        source_lines: Any,
        source_first: Any,
        target: Any,
        target_lines: Any,
        target_first: Any,
        bits: Any,
        at: Any,
    ) -> Any:
        signature = types.void(
            source,
            source_lines,
            source_first,
            target,
            target_lines,
            target_first,
            bits,
            at,
        )
        size = source.dtype.bitwidth // 8

        def generate(context: Any, build: Any, signature: Any, args: Any) -> Any:
            values = _values(context, build, signature, args)
            _emit(build, values, steps, size=size, few=few, stream=stream)
            return context.get_dummy_value()

        return signature, generate

    return net


def _emit(
    build: Any,
    values: list[Any],
    steps: tuple[str, ...],
    *,
    size: int,
    few: bool,
    stream: bool,
) -> None:
    """Write the instructions of a network: load, move, store."""
    source, source_lines, source_first, target, target_lines, target_first = values[:6]
    lanes = min(LINE // size, MAX_LANES)
    stream = stream and lanes * size == LINE
    count = FEW if few else lanes
    regs = []
    for x in range(count):
        place = _place(build, source, source_lines, source_first, x, lanes * size)
        load = build.load(place)
        load.align = size
        regs.append(load)
    words = build.gep(values[6], [values[7]])
    for kind, h, first in _order(steps, count):
        if kind == "turn":
            _turn(build, regs, size)
        else:
            _switch(build, regs, words, h=h, first=first, lanes=lanes)
    for x in range(count):
        place = _place(build, target, target_lines, target_first, x, lanes * size)
        store = build.store(regs[x], place)
        store.align = LINE if stream else size
        if stream:
            mark = build.module.add_metadata([ir.Constant(_I32, 1)])
            store.set_metadata("nontemporal", mark)


def _place(
    build: Any, base: Any, lines: Any, first: Any, x: int, line_bytes: int
) -> Any:
    """Return the address of a line, as that of a vector of 64-bit words."""
    line = build.add(build.load(build.gep(lines, [ir.Constant(_I64, x)])), first)
    start = build.bitcast(base, _BYTES)
    place = build.gep(start, [build.mul(line, ir.Constant(_I64, line_bytes))])
    return build.bitcast(place, ir.VectorType(_I64, line_bytes // 8).as_pointer())


def _switch(
    build: Any, regs: list[Any], words: Any, *, h: int, first: int, lanes: int
) -> None:
    """Exchange elements of lines h apart, where a bit says so."""
    whole = regs[0].type
    elements = ir.VectorType(ir.IntType(whole.count * 64 // lanes), lanes)
    for k, r in enumerate(r for r in range(len(regs)) if not r & h):
        word = build.load(build.gep(words, [ir.Constant(_I64, first + k)]))
        if lanes < 8:  # a word has eight bits at least
            word = build.trunc(word, ir.IntType(lanes))
        swap = build.bitcast(word, ir.VectorType(ir.IntType(1), lanes))
        one = build.bitcast(regs[r], elements)
        two = build.bitcast(regs[r + h], elements)
        regs[r] = build.bitcast(build.select(swap, two, one), whole)
        regs[r + h] = build.bitcast(build.select(swap, one, two), whole)


def _turn(build: Any, regs: list[Any], size: int) -> None:
    """Transpose a square of lines and lanes: bit by bit of both numbers.

    Elements that are h lanes apart change places between lines that are h apart. Below
    64 bits that is shifts and masks, above it is moves of whole 64-bit words.
    """
    h = 1
    while h < len(regs):
        apart = h * size
        for r in range(len(regs)):
            if r & h:
                continue
            one, two = regs[r], regs[r + h]
            move = _shifted if apart < 8 else _moved
            regs[r], regs[r + h] = move(build, one, two, apart)
        h *= 2


def _shifted(build: Any, one: Any, two: Any, apart: int) -> tuple[Any, Any]:
    """Exchange the parts of 64-bit words that are fewer than eight bytes apart."""
    low = sum(0xFF << 8 * n for n in range(8) if not n & apart)
    words = one.type.count
    mask = ir.Constant(one.type, [low] * words)
    rest = ir.Constant(one.type, [low ^ (1 << 64) - 1] * words)
    by = ir.Constant(one.type, [8 * apart] * words)
    up = build.shl(build.and_(two, mask), by)
    down = build.lshr(build.and_(one, rest), by)
    first = build.or_(build.and_(one, mask), up)
    second = build.or_(build.and_(two, rest), down)
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
