"""The instructions of `permute.bounded` and `permute.shuffle`: no networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from safemodel._kernels._native import I64, Code, Number, aligned_to

if TYPE_CHECKING:
    from collections.abc import Callable

    Writer = Callable[[Code], None]


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
