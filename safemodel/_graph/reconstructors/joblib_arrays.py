"""Arrays of joblib: a wrapper in the pickle, its bytes between the opcodes.

The machine has put the bytes, or the pickle of an array of objects, where no opcode
can: see `_unpickle.joblib_arrays`. Shape, dtype and bytes are held against each other
here as those of any array; a subclass is never more than numpy's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._graph.array_specs import ObjectArraySpec
from safemodel._graph.composite_specs import OpaqueSpec
from safemodel._graph.reconstructors.common import (
    CheckContext,
    Entry,
    Table,
    arguments,
    global_name,
    ref_name,
    unedited,
)
from safemodel._graph.reconstructors.numpy_values import (
    ARRAY_CLASSES,
    array_dtype,
    opaque_elements,
    plain_array,
)
from safemodel._unpickle.joblib_arrays import WRAPPERS
from safemodel._unpickle.nodes import GlobalRef
from safemodel._unpickle.parsed import Pickle

if TYPE_CHECKING:
    from safemodel._unpickle.nodes import Call

_CLASSES = {*ARRAY_CLASSES, ("numpy", "memmap")}
_KNOWN = {
    "subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes",
}  # fmt: skip


def check_wrapper(call: Call, ctx: CheckContext) -> object:
    """NumpyArrayWrapper(), with a state, and an array behind it."""
    elements, call.elements = call.elements, None
    if elements is None or len(elements) != 1:
        ctx.refuse(call, "no array follows it")
    # No opcode gives a wrapper with a state anything else: `joblib_arrays.put`.
    found, state = elements[0], call.state
    if type(state) is not dict or not state.keys() <= _KNOWN:
        ctx.refuse(call, "its state is not that of an array")
    kind = state.get("subclass")
    if type(kind) is not GlobalRef:
        ctx.refuse(call, "its class is not a class")
    if global_name(kind) not in _CLASSES:
        return ctx.opaque_or_refuse(call, ref_name(kind))
    unedited(call, ctx)
    arguments(call, ctx, 0)
    if state.get("order") not in ("C", "F"):
        ctx.refuse(call, "the order is neither C nor F")
    dtype = array_dtype(state.get("dtype"), call, ctx)
    if isinstance(dtype, OpaqueSpec):
        return opaque_elements("numpy.ndarray", call)
    if type(found) is Pickle:
        made = ctx.value_of(found.root, call)
        if type(made) is not ObjectArraySpec or dtype.descr != "|O":
            ctx.refuse(call, "what follows it is no array of objects")
        return made
    layout = (state.get("shape"), state["order"] == "F")
    return plain_array(dtype, found, layout, call, ctx)


CALLS: Table = {
    name: Entry(
        check_wrapper, "numpy.ndarray", "shape x element size is what follows it"
    )
    for name in WRAPPERS
}
