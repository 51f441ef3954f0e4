"""Inert records of what a pickle asks for.

The machine makes them, `_graph` reads them. They have no methods: a node cannot do
anything. Plain containers and scalars of a pickle are ordinary Python values; only
what would need a name from outside the file becomes a node.

`value` is empty until `_graph` has checked the node; then it holds a spec or a plain
value, and `_build` reads nothing else.

Their size matters: one byte of a pickle may make a `SetNode`, and memory must stay
under 100 bytes per byte of pickle. Hence the slots, and no position where none is
needed.
"""

from __future__ import annotations

UNCHECKED = object()
"""The `value` of a node that no checker has seen yet."""


class GlobalRef:
    """A ``module.name`` the pickle refers to; one per name and pickle."""

    __slots__ = ("module", "name", "position", "value")

    def __init__(self, module: str, name: str, position: int) -> None:
        self.module = module
        self.name = name
        self.position = position
        self.value: object = UNCHECKED


class Call:
    """``target(*args, **kwargs)``, and what the pickle then did to the result.

    Attributes:
        target: What would be called: a `GlobalRef`, or another node.
        args: Positional arguments.
        kwargs: Keyword arguments (NEWOBJ_EX only), else None.
        opcode: The opcode byte: REDUCE, NEWOBJ, NEWOBJ_EX, INST or OBJ.
        position: Byte offset of that opcode.
        state: Argument of BUILD; `UNCHECKED` if there was none.
        pairs: Keys and values given by SETITEM(S), alternating; None if none.
        elements: Items given by APPEND(S) or ADDITEMS; None if none.
    """

    __slots__ = (
        "args",
        "elements",
        "kwargs",
        "opcode",
        "pairs",
        "position",
        "state",
        "target",
        "value",
    )

    def __init__(
        self,
        target: object,
        args: tuple[object, ...],
        opcode: int,
        position: int,
        kwargs: dict[object, object] | None = None,
    ) -> None:
        self.target = target
        self.args = args
        self.opcode = opcode
        self.position = position
        self.kwargs = kwargs
        self.state: object = UNCHECKED
        self.pairs: list[object] | None = None
        self.elements: list[object] | None = None
        self.value: object = UNCHECKED


class TensorForm:
    """What calls that rebuild tensors have in common, if they differ in keys only.

    Attributes:
        target: The function, ``torch._utils._rebuild_tensor_v2``.
        storage_class: Class of the storage.
        location: Device tag of the storage.
        numel: Elements of the storage.
        offset: First element of the tensor.
        shape: Length of each axis.
        stride: Step of each axis, in elements.
        requires_grad: As in torch.
        value: What `_graph` knows of it.
    """

    __slots__ = (
        "location",
        "numel",
        "offset",
        "requires_grad",
        "shape",
        "storage_class",
        "stride",
        "target",
        "value",
    )

    def __init__(
        self,
        target: GlobalRef,
        storage_class: GlobalRef,
        location: str,
        numel: int,
        offset: int,
        shape: tuple[int, ...],
        stride: tuple[int, ...],
        requires_grad: bool,
    ) -> None:
        self.target = target
        self.storage_class = storage_class
        self.location = location
        self.numel = numel
        self.offset = offset
        self.shape = shape
        self.stride = stride
        self.requires_grad = requires_grad
        self.value: object = UNCHECKED


class TensorCall:
    """What torch.save writes for a tensor, in one node: see `tensor_runs`.

    It stands for ``_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad,
    OrderedDict())``, where storage is the persistent id ("storage", storage_class,
    key, location, numel); all but the key is in ``form``.
    """

    __slots__ = ("form", "key", "position", "value")

    def __init__(self, form: TensorForm, key: str, position: int) -> None:
        self.form = form
        self.key = key
        self.position = position
        self.value: object = UNCHECKED


class PersistentRef:
    """A persistent id: in torch files, which storage; one per opcode."""

    __slots__ = ("pid", "position", "value")

    def __init__(self, pid: object, position: int) -> None:
        self.pid = pid
        self.position = position
        self.value: object = UNCHECKED


class SetNode:
    """A set (EMPTY_SET and ADDITEMS). A real one would hash before anyone checked."""

    __slots__ = ("elements", "value")

    def __init__(self) -> None:
        self.elements: list[object] | None = None
        self.value: object = UNCHECKED


class FrozenSetNode:
    """A frozenset (FROZENSET)."""

    __slots__ = ("elements", "value")

    def __init__(self, elements: tuple[object, ...]) -> None:
        self.elements = elements
        self.value: object = UNCHECKED
