"""Nodes as the machine would make them, checked in the order of a file."""

from __future__ import annotations

import pytest

from safemodel._graph.allowlist import ALLOWED_CALLS, value_of_global
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._graph.reconstructors.common import CheckContext
from safemodel._graph.specs import StorageSpec
from safemodel._unpickle.nodes import UNCHECKED, Call, GlobalRef, PersistentRef
from safemodel.limits import Limits

REDUCE = 0x52
NEWOBJ = 0x81
POSITION = 117
BYTE_COUNT = 1_000


class File:
    """One file under check: makes nodes and has them checked."""

    def __init__(self, limits: Limits, byte_count: int) -> None:
        self.ctx = CheckContext(
            limits, record="archive/data.pkl", byte_count=byte_count
        )

    def ref(self, dotted: str) -> GlobalRef:
        """Return a global, its value filled in as the walk does."""
        module, _, name = dotted.rpartition(".")
        node = GlobalRef(module, name, POSITION)
        value = value_of_global(module, name)
        node.value = UNCHECKED if value is None else value
        return node

    def node(self, dotted, *args, opcode=REDUCE, **done) -> Call:
        """Return an unchecked call; ``done`` is what the file does to its result."""
        call = Call(self.ref(dotted), args, opcode, POSITION)
        for name, value in done.items():
            setattr(call, name, value)
        return call

    def made(self, dotted, *args, opcode=REDUCE, **done) -> Call:
        """Return a call that has been checked."""
        call = self.node(dotted, *args, opcode=opcode, **done)
        target = call.target
        entry = ALLOWED_CALLS[canonical(target.module, target.name)]
        call.value = entry.checker(call, self.ctx)
        return call

    def check(self, dotted, *args, opcode=REDUCE, **done):
        """Return what a call becomes."""
        return self.made(dotted, *args, opcode=opcode, **done).value

    def storage(self, numel=12, dtype="float32", itemsize=4, key="0") -> PersistentRef:
        """Return a persistent reference to a storage."""
        node = PersistentRef(("storage", None, key, "cpu", numel), POSITION)
        node.value = StorageSpec(key, dtype, itemsize, numel, None)
        return node

    def tensor(self, shape=(3, 4), dtype="float32", itemsize=4) -> Call:
        """Return a checked contiguous tensor over a storage of its own."""
        stride, numel = [], 1
        for size in reversed(shape):
            stride.insert(0, numel)
            numel *= size
        return self.made(
            "torch._utils._rebuild_tensor_v2",
            self.storage(numel, dtype, itemsize),
            0,
            shape,
            tuple(stride),
            False,
            self.made("collections.OrderedDict"),
        )

    def dtype(self, code="f4", order="<", size=-1) -> Call:
        """Return a checked numpy dtype without fields."""
        state = (3, order, None, None, None, size, -1, 0)
        return self.made("numpy.dtype", code, False, True, state=state)


@pytest.fixture
def new_file():
    """Return a maker of files, for tests that choose the limits."""

    def make(byte_count=BYTE_COUNT, **limits):
        return File(Limits(**limits), byte_count)

    return make


@pytest.fixture
def file(new_file):
    """Return a file of 1,000 bytes under the default limits."""
    return new_file()
