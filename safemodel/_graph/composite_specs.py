"""Specs that hold other values (containers, opaque objects), and the whole graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.specs import UNBUILT, Spec, StorageSpec

if TYPE_CHECKING:
    from safemodel.policy import Reconstructor


class MappingSpec(Spec):
    """A dictionary kind (composite).

    Attributes:
        kind: "OrderedDict", "defaultdict", "Counter", "dict".
        pairs: Keys and values, alternating.
        factory: defaultdict: name of a builtin ("list", "int", ...), or None.
        metadata: OrderedDict: the `_metadata` attribute of a state dict, else None.
    """

    __slots__ = ("factory", "kind", "metadata", "pairs")

    def __init__(
        self, kind: str, pairs: list[object], factory: str | None = None
    ) -> None:
        self.built = UNBUILT
        self.kind = kind
        self.pairs = pairs
        self.factory = factory
        self.metadata: object = None


class SequenceSpec(Spec):
    """A list, tuple, set, frozenset or deque (composite).

    Attributes:
        kind: "list", "tuple", "set", "frozenset", "deque".
        elements: Its items.
        maxlen: deque only.
    """

    __slots__ = ("elements", "kind", "maxlen")

    def __init__(
        self,
        kind: str,
        elements: list[object] | tuple[object, ...],
        maxlen: int | None = None,
    ) -> None:
        self.built = UNBUILT
        self.kind = kind
        self.elements = elements
        self.maxlen = maxlen


class NamespaceSpec(Spec):
    """`argparse.Namespace` or `types.SimpleNamespace`; attribute names checked."""

    __slots__ = ("attributes", "kind")

    def __init__(self, kind: str, attributes: dict[str, object]) -> None:
        self.built = UNBUILT
        self.kind = kind
        self.attributes = attributes


class OpaqueSpec(Spec):
    """What becomes an `Opaque` (composite)."""

    __slots__ = ("args", "elements", "kwargs", "name", "pairs", "state")

    def __init__(
        self,
        name: str,
        args: tuple[object, ...] = (),
        kwargs: dict[object, object] | None = None,
        state: object = None,
        pairs: list[object] | None = None,
        elements: list[object] | None = None,
    ) -> None:
        self.built = UNBUILT
        self.name = name
        self.args = args
        self.kwargs = kwargs
        self.state = state
        self.pairs = pairs
        self.elements = elements


class ExtraSpec(Spec):
    """A global the caller's policy accepts (composite): the caller's code builds it."""

    __slots__ = ("args", "name", "reconstructor", "state")

    def __init__(
        self,
        name: str,
        reconstructor: Reconstructor,
        args: tuple[object, ...],
        state: object,
    ) -> None:
        self.built = UNBUILT
        self.name = name
        self.reconstructor = reconstructor
        self.args = args
        self.state = state


class TensorGraph:
    """Everything a checked file holds, before any of it is built.

    Attributes:
        root: The value the file stands for: plain Python values, nodes whose `value`
            is checked, and specs.
        specs: Every leaf spec (storages excepted), in the order of the file.
        storages: Every storage that is used, by a key unique within the file.
        unused: Records that hold storages nothing refers to, by name.
        dropped: What a value is → how many attributes of such values are dropped.
        opaque: Dotted names that became opaque, each once, in order.
        byte_count: Bytes of the file, for limits relative to it.
        mutables: Every dict, list and mutable composite spec that can be reached.
        immutables: Every tuple and immutable composite spec, after what it holds.
    """

    __slots__ = (
        "byte_count",
        "dropped",
        "immutables",
        "mutables",
        "opaque",
        "root",
        "specs",
        "storages",
        "unused",
    )

    def __init__(self, root: object, byte_count: int) -> None:
        self.root = root
        self.specs: list[Spec] = []
        self.storages: dict[str, StorageSpec] = {}
        self.unused: list[str] = []
        self.dropped: dict[str, int] = {}
        self.opaque: list[str] = []
        self.byte_count = byte_count
        self.mutables: list[Any] = []
        self.immutables: list[Any] = []
