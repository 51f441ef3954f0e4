"""Functions written as instructions for LLVM, and made machine code in this process.

Numba takes seconds for what LLVM alone makes in tenths of one: docs/adr/0021. Kernels
are written with `Code`, and `compiled` makes functions of them. No text of a function
comes from a file, and no machine code goes to one. ctypes calls what was made here and
nothing else; no library is opened. The lock of the interpreter is free meanwhile.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
from llvmlite import ir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

I64 = ir.IntType(64)
BYTES = ir.IntType(8).as_pointer()

REFUSED = -1
"""What a function returns that met an index out of range."""

_lock = threading.Lock()
_engines: list[Any] = []
"""What owns the machine code: it stays until the process ends."""


class Number:
    """An integer of 64 bits that the machine code will work out.

    Python integers may stand beside it. Division, remainder, `below` and `reaches` are
    of numbers without a sign; ``<`` compares those with one.
    """

    __slots__ = ("build", "value")

    def __init__(self, build: Any, value: Any) -> None:
        self.build, self.value = build, value

    def _of(self, other: Number | int) -> Any:
        return ir.Constant(I64, other) if isinstance(other, int) else other.value

    def __add__(self, other: Number | int) -> Number:
        return Number(self.build, self.build.add(self.value, self._of(other)))

    def __sub__(self, other: Number | int) -> Number:
        return Number(self.build, self.build.sub(self.value, self._of(other)))

    def __mul__(self, other: Number | int) -> Number:
        return Number(self.build, self.build.mul(self.value, self._of(other)))

    def __floordiv__(self, other: Number | int) -> Number:
        return Number(self.build, self.build.udiv(self.value, self._of(other)))

    def __mod__(self, other: Number | int) -> Number:
        return Number(self.build, self.build.urem(self.value, self._of(other)))

    def __lt__(self, other: Number | int) -> Any:
        return self.build.icmp_signed("<", self.value, self._of(other))

    def below(self, other: Number | int) -> Any:
        """Return whether it is smaller, both taken without a sign."""
        return self.build.icmp_unsigned("<", self.value, self._of(other))

    def reaches(self, other: Number | int) -> Any:
        """Return whether it is as large or larger: no index below the other."""
        return self.build.icmp_unsigned(">=", self.value, self._of(other))


class Code:
    """The instructions of one function, each written where the last one ended.

    Args:
        kinds: Its parameters, a letter each: "p" is an address, "n" a number.
    """

    __slots__ = ("args", "build", "module")

    def __init__(self, kinds: str) -> None:
        self.module = ir.Module()
        kind = ir.FunctionType(
            I64, [BYTES if letter == "p" else I64 for letter in kinds]
        )
        function = ir.Function(self.module, kind, "kernel")
        self.build = ir.IRBuilder(function.append_basic_block())
        self.args: list[Any] = [
            arg if arg.type == BYTES else Number(self.build, arg)
            for arg in function.args
        ]

    def number(self, value: Number | int) -> Number:
        """Return a number, of a constant too."""
        if isinstance(value, Number):
            return value
        return Number(self.build, ir.Constant(I64, value))

    def choose(self, so: Any, one: Number | int, other: Number | int) -> Number:
        """Return the one number if something is so, and otherwise the other."""
        values = self.number(one).value, self.number(other).value
        return Number(self.build, self.build.select(so, *values))

    def refuse(self, wrong: Any) -> None:
        """Let the function end here, with `REFUSED`, if something is so."""
        with self.build.if_then(wrong, likely=False):
            self.build.ret(ir.Constant(I64, REFUSED))

    @contextmanager
    def loop(self, start: Number | int, stop: Number | int) -> Iterator[Number]:
        """Write a loop that counts as `range` does; gives where it is."""
        build, first, end = self.build, self.number(start), self.number(stop)
        before = build.block
        body, after = build.append_basic_block(), build.append_basic_block()
        build.cbranch(first < end, body, after)
        build.position_at_end(body)
        now = build.phi(I64)
        now.add_incoming(first.value, before)
        yield Number(build, now)
        following = Number(build, now) + 1
        now.add_incoming(following.value, build.block)
        build.cbranch(following < end, body, after)
        build.position_at_end(after)

    def call(self, entry: Number, *args: Any) -> None:
        """Call a function of addresses and numbers; see `entry_of`."""
        values = [arg.value if isinstance(arg, Number) else arg for arg in args]
        kind = ir.FunctionType(I64, [value.type for value in values])
        function = self.build.inttoptr(entry.value, kind.as_pointer())
        self.build.call(function, values)

    def prefetch(self, place: Any, *, write: bool = False) -> None:
        """Ask for the line at an address before it is needed, for every cache.

        The address may be wrong: nothing is read.
        """
        name = "llvm.prefetch.p0"
        kind = ir.FunctionType(ir.VoidType(), [BYTES, *[ir.IntType(32)] * 3])
        known = self.module.globals.get(name)
        function = known or ir.Function(self.module, kind, name)
        how = [ir.Constant(ir.IntType(32), n) for n in (int(write), 3, 1)]
        self.build.call(function, [place, *how])

    def room(self, count: int, kind: Any) -> Any:
        """Return where so many values may be until the function ends.

        Only to be asked for before the first loop.
        """
        return self.build.bitcast(self.build.alloca(ir.ArrayType(kind, count)), BYTES)

    def place(self, base: Any, index: Number | int, kind: Any, size: int) -> Any:
        """Return the address of an element of a type, of so many bytes."""
        start = self.build.gep(base, [(self.number(index) * size).value])
        return self.build.bitcast(start, kind.as_pointer())

    def get(self, base: Any, index: Number | int, size: int = 8) -> Number:
        """Return an element: an unsigned integer of 4 bytes, or one of 8."""
        value = self.build.load(self.place(base, index, ir.IntType(8 * size), size))
        return Number(self.build, value if size == 8 else self.build.zext(value, I64))

    def put(self, base: Any, index: Number | int, value: Number | int) -> None:
        """Write an element of 8 bytes."""
        place = self.place(base, index, I64, 8)
        self.build.store(self.number(value).value, place)


def vector_bits() -> int:
    """Return the bits of the widest vectors this processor takes at once."""
    has = llvm.get_host_cpu_features()
    return 512 if has.get("avx512f") else 256 if has.get("avx2") else 128


def aligned_to(size: int) -> int:
    """Return of what the addresses of elements of so many bytes are multiples.

    Numpy's of 16 bytes are complex numbers: two elements of 8.
    """
    return min(size, 8)


def compiled(
    kinds: str,
    write: Callable[[Code], Number | None],
    *,
    cpu: str = "",
    features: str = "",
) -> Callable[..., int]:
    """Return a function of addresses and numbers.

    Args:
        kinds: Its parameters; see `Code`.
        write: Writes its instructions; gives what it returns, if not 0.
        cpu: What it is made for, as LLVM names it; "": this processor, and all it has.
        features: What that has in addition.
    """
    code = Code(kinds)
    code.build.ret(code.number(write(code) or 0).value)
    if not cpu:
        cpu = llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features().flatten()
    with _lock:
        engine = _engine(str(code.module), cpu, features)
        _engines.append(engine)
    types = [ctypes.c_void_p if kind == "p" else ctypes.c_int64 for kind in kinds]
    made: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_int64, *types)(
        engine.get_function_address("kernel")
    )
    return made


def entry_of(function: Callable[..., int]) -> int:
    """Return where a compiled function begins, for others to call it."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]  # made by ctypes


def _engine(text: str, cpu: str, features: str) -> Any:
    """Return what has the machine code of a text.

    There are no passes of LLVM's over the instructions: they are as they should be.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=cpu, features=features, opt=2, jit=True
    )
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


def address(array: NDArray[Any], *, write: bool = False) -> int:
    """Return where an array's elements begin.

    write: it will be written to.

    Raises:
        ValueError: It is not C-contiguous, its elements do not begin at multiples of
            their size or of 8, or it may not be written to.
    """
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable >= write):
        raise ValueError("kernels take C-contiguous arrays, and write to writable ones")
    if flags.writeable and array.size:
        # A quarter of the time of the other way, which takes a microsecond.
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    start: int = array.ctypes.data
    return start
