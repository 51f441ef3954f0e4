"""The instructions of `keystream.fill`: ChaCha20 (RFC 8439), several blocks at once.

A vector has one word of the state of each block, so that a step of the RFC is one
instruction for all blocks. In the end, words and blocks change places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir

from safemodel._kernels._native import I64, Code, Number

if TYPE_CHECKING:
    from collections.abc import Callable

    Quarter = tuple[int, int, int, int]

WORDS = 16
"""Words of a state, and of a block of the keystream: each of 32 bits."""

BATCH = 16
"""Blocks that are made together, whatever the processor takes at once."""

SOON = 64
"""Runs of lines that are asked for, one each two rounds; then from the first again."""

RUN = 4
"""Lines of a run."""

_COUNTER, _NONCE = 12, 13
_DOUBLE_ROUNDS = 10
_COLUMNS = [(k, k + 4, k + 8, k + 12) for k in range(4)]
_DIAGONALS = [(k, (k + 1) % 4 + 4, (k + 2) % 4 + 8, (k + 3) % 4 + 12) for k in range(4)]
_I8, _I32 = ir.IntType(8), ir.IntType(32)


def keystream(width: int) -> Callable[[Code], None]:
    """Return what writes the kernel.

    Its parameters: state, number, first block, batches, target, base, offsets. The last
    two say what the caller will read next: memory is slow, and this needs none of it.
    There are `SOON` offsets in bytes, and each is of `RUN` lines.

    width: Blocks at once: 4, 8 or 16. Words of the state and of some temporary values
    should fit the registers; what is written does not depend on it.
    """

    def write(code: Code) -> None:
        state, number, first, count, target, base, offsets = code.args
        words = _words(code, state, number, width)
        with code.loop(0, count * (BATCH // width)) as n:
            begin = [*words]
            begin[_COUNTER] = _counters(code, first + n * width, width)

            def soon(turn: Number, done: Number = n * _DOUBLE_ROUNDS) -> None:
                start = code.get(offsets, (done + turn) % SOON)
                for line in range(RUN):
                    code.prefetch(code.place(base, start + line * 64, _I8, 1))

            mixed = _rounds(code, begin, soon)
            made = [code.build.add(a, b) for a, b in zip(mixed, begin, strict=True)]
            _store(code, made, code.place(target, n * width, _I8, 64))

    return write


def _every(code: Code, value: Any, width: int) -> Any:
    """Return a vector whose elements are one number of 32 bits."""
    kind = ir.VectorType(_I32, width)
    one = code.build.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    zeros = ir.Constant(kind, [0] * width)
    return code.build.shuffle_vector(one, one, zeros)


def _words(code: Code, state: Any, number: Number, width: int) -> list[Any]:
    """Return the words of the state, each for all blocks."""
    build = code.build
    values = [build.load(code.place(state, k, _I32, 4)) for k in range(WORDS)]
    values[_NONCE] = build.trunc(number.value, _I32)
    values[_NONCE + 1] = build.trunc((number // (1 << 32)).value, _I32)
    return [_every(code, value, width) for value in values]


def _counters(code: Code, first: Number, width: int) -> Any:
    """Return the numbers of blocks."""
    kind = ir.VectorType(_I32, width)
    start = _every(code, code.build.trunc(first.value, _I32), width)
    return code.build.add(start, ir.Constant(kind, list(range(width))))


def _rounds(
    code: Code, begin: list[Any], beside: Callable[[Number], None]
) -> list[Any]:
    """Return a state after all rounds; write something beside each two of them."""
    build, kind = code.build, begin[0].type
    before = build.block
    body, after = build.append_basic_block(), build.append_basic_block()
    build.branch(body)
    build.position_at_end(body)
    turn = build.phi(I64)
    now = [build.phi(kind) for _ in begin]
    mixed: list[Any] = [*now]
    beside(Number(build, turn))
    for which in (_COLUMNS, _DIAGONALS):
        _quarters(code, mixed, which)
    following = build.add(turn, I64(1))
    for phi, old, new in zip(
        [turn, *now], [I64(0), *begin], [following, *mixed], strict=True
    ):
        phi.add_incoming(old, before)
        phi.add_incoming(new, body)
    more = build.icmp_unsigned("<", following, I64(_DOUBLE_ROUNDS))
    build.cbranch(more, body, after)
    build.position_at_end(after)
    return mixed


def _quarters(code: Code, x: list[Any], which: list[Quarter]) -> None:
    """Take four quarter rounds, step by step side by side: none waits for another."""
    build = code.build
    # a += b, d ^= a, d <<<= 16; the same with c, d, b; and both once more.
    for one, two, three, by in (
        (0, 1, 3, 16),
        (2, 3, 1, 12),
        (0, 1, 3, 8),
        (2, 3, 1, 7),
    ):
        for names in which:
            a, b, d = names[one], names[two], names[three]
            x[a] = build.add(x[a], x[b])
            x[d] = _rotated(code, build.xor(x[d], x[a]), by)


def _rotated(code: Code, value: Any, by: int) -> Any:
    """Return words rotated to the left."""
    kind = value.type
    name = f"llvm.fshl.v{kind.count}i32"
    known = code.module.globals.get(name)
    function = known or ir.Function(
        code.module, ir.FunctionType(kind, [kind, kind, kind]), name
    )
    return code.build.call(
        function, [value, value, ir.Constant(kind, [by] * kind.count)]
    )


def _store(code: Code, made: list[Any], target: Any) -> None:
    """Write blocks one after the other."""
    build, width = code.build, made[0].type.count
    for first in range(0, WORDS, width):
        rows = made[first : first + width]
        for k, row in enumerate(_turned(code, rows)):
            at = code.place(target, k * WORDS + first, row.type, 4)
            build.store(row, at, align=4)


def _turned(code: Code, rows: list[Any]) -> list[Any]:
    """Return as many vectors as each has elements, with rows and columns exchanged."""
    width = len(rows)
    kind = ir.VectorType(_I32, width)
    h = 1
    while h < width:
        low = [width + k - h if k & h else k for k in range(width)]
        high = [width + k if k & h else k + h for k in range(width)]
        for r in range(width):
            if not r & h:
                pair = rows[r], rows[r + h]
                rows[r], rows[r + h] = (
                    code.build.shuffle_vector(*pair, ir.Constant(kind, pick))
                    for pick in (low, high)
                )
        h *= 2
    return rows
