"""The walk over a checked graph: depth, size, keys, and the order to build in.

Rules:

1. Nothing here recurses: depth is a number that is compared with a limit.
2. Every container is visited once, however often it is shared. What it would take to
   write everything out in full (which `repr` and `==` do) is added up and bounded.
3. Every dictionary key and set element is something that may be hashed.
4. A value of a kind not listed here is malformed; only what is understood is built.
5. What cannot be changed once made (tuples, frozensets, results of the caller's
   reconstructors) is built after what it holds, so it may not hold itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._graph.array_specs import ObjectArraySpec
from safemodel._graph.composite_specs import (
    ExtraSpec,
    MappingSpec,
    NamespaceSpec,
    OpaqueSpec,
    SequenceSpec,
)
from safemodel._graph.key_values import (
    IMMUTABLE_SEQUENCES,
    UNKNOWN,
    hashed_value,
    is_late,
    refuse_unhashable,
)
from safemodel._graph.reconstructors.common import CheckContext
from safemodel._graph.scalars import ATOMS, SCALARS
from safemodel._graph.specs import Spec
from safemodel._unpickle.nodes import (
    UNCHECKED,
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    SetNode,
    TensorCall,
)
from safemodel.errors import LimitExceededError, MalformedFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safemodel._unpickle.keys import KeyGuard
    from safemodel.limits import Limits

_HEIGHT_BITS = 32
_HEIGHT = (1 << _HEIGHT_BITS) - 1
_MAX_MEASURES = 256
_NODES = frozenset({Call, FrozenSetNode, GlobalRef, PersistentRef, SetNode, TensorCall})
_SETS = frozenset({SetNode, FrozenSetNode})
_COMPOSITES = frozenset(
    {MappingSpec, SequenceSpec, NamespaceSpec, OpaqueSpec, ExtraSpec, ObjectArraySpec}
)
# A container of so few scalars is looked at each time it is met, rather than noted
# down: that is cheaper than the note.
_SMALL = 8
# Bytes that a container takes from node to result, notes included, as measured; one
# byte of a pickle can ask for one.
_PLAIN_WEIGHT = 240
_SET_WEIGHT = 400
_WEIGHTS = {OpaqueSpec: 520, MappingSpec: 400, NamespaceSpec: 520}
# Probes of keys whose hash is known only once they are built, in one file: no more
# than a few seconds' worth, and enough for 8,192 such keys in one dictionary.
_MAX_UNCOUNTED_PROBES = 1 << 26


class Order:
    """What `_build` needs to know about containers.

    Attributes:
        mutables: Every dict, list and mutable composite spec that can be reached, but
            for dicts of scalars, which are what they will be.
        immutables: Every tuple and immutable composite spec, after what it holds.
    """

    __slots__ = ("immutables", "mutables")

    def __init__(self) -> None:
        self.mutables: list[Any] = []
        self.immutables: list[Any] = []


def settle(value: Any) -> Any:
    """Return what a node stands for: a spec or a plain value.

    Raises:
        MalformedFileError: The node refers to itself, or was never checked.
    """
    for _ in range(8):
        kind = type(value)
        if kind is SetNode or kind is FrozenSetNode:
            if value.value is UNCHECKED:
                name = "set" if kind is SetNode else "frozenset"
                value.value = SequenceSpec(name, value.elements or ())
            return value.value
        if kind not in _NODES:
            return value
        value = value.value
        if value is UNCHECKED:
            raise MalformedFileError("a value is used before it is made")
    raise MalformedFileError("a value stands for itself")


class _Walk:
    """One depth-first walk; see the rules of the module."""

    def __init__(
        self, limits: Limits, guard: KeyGuard, charge: Callable[[int], None]
    ) -> None:
        self.limits = limits
        self.guard = guard
        self.order = Order()
        self.charge = charge
        self.probes = 0
        # What the small containers of the value being entered add to its size.
        self.small = 0
        # id → expanded size and height in one number; None while being visited.
        self.done: dict[int, int | None] = {}
        self.measures: dict[int, int] = {}
        self.cyclic = False

    def run(self, root: object) -> Order:
        start = self.containers([root])
        if not start or (type(start[0]) is dict and self.is_flat(start[0])):
            return self.order
        # Each frame: container, what it holds, next index, height and size so far.
        frames: list[list[Any]] = []
        self.enter(start[0], frames)
        while frames:
            frame = frames[-1]
            value, children, index, height, size = frame
            if index < len(children):
                child = children[index]
                frame[2] = index + 1
                known = self.done.get(id(child))
                if known is not None:
                    self.add(frame, known & _HEIGHT, known >> _HEIGHT_BITS)
                elif id(child) in self.done:
                    self.cyclic = True
                elif type(child) is dict and self.is_flat(child):
                    self.add(frame, 1, 1 + len(child))
                else:
                    self.enter(child, frames)
                continue
            frames.pop()
            self.note(value, height, size)
            self.leave(value)
            if frames:
                self.add(frames[-1], height, size)
        return self.order

    def enter(self, value: Any, frames: list[list[Any]]) -> None:
        if len(frames) >= self.limits.max_depth:
            raise LimitExceededError(
                "max_depth", allowed=self.limits.max_depth, requested=len(frames) + 1
            )
        self.done[id(value)] = None
        self.small = 0
        children, count = self.children(value)
        frames.append([value, children, 0, 1, 1 + count])
        if self.small:
            self.add(frames[-1], 1, self.small)

    def is_flat(self, value: dict[Any, Any]) -> bool:
        """Pass a dict of scalars and tensors, the state of a parameter or a layer."""
        kinds = set(map(type, value.values()))
        is_filled = TensorCall in kinds
        kinds.discard(TensorCall)
        if not kinds <= ATOMS or not SCALARS.issuperset(map(type, value)):
            return False
        self.note(value, 1, 1 + len(value))
        self.charge(_PLAIN_WEIGHT)
        if is_filled:
            self.order.mutables.append(value)
        return True

    def note(self, value: Any, height: int, size: int) -> None:
        """Remember what a container measures, for when it is met again."""
        measure = size << _HEIGHT_BITS | height
        # One object for equal numbers: a million containers may have the same.
        # Only of a few: a file chooses them, and could make them collide.
        if len(self.measures) < _MAX_MEASURES:
            measure = self.measures.setdefault(measure, measure)
        self.done[id(value)] = self.measures.get(measure, measure)

    def add(self, frame: list[Any], height: int, size: int) -> None:
        """Rule 2: a shared child counts each time it is used."""
        frame[3] = max(frame[3], height + 1)
        frame[4] += size
        limits = self.limits
        if frame[3] > limits.max_depth:
            raise LimitExceededError(
                "max_depth", allowed=limits.max_depth, requested=frame[3]
            )
        if frame[4] > limits.max_expanded_nodes:
            raise LimitExceededError(
                "max_expanded_nodes",
                allowed=limits.max_expanded_nodes,
                requested=frame[4],
            )

    def leave(self, value: Any) -> None:
        kind = type(value)
        self.charge(_WEIGHTS.get(kind, _PLAIN_WEIGHT) + _extra_weight(value))
        if (
            kind is tuple
            or kind is ExtraSpec
            or (kind is SequenceSpec and value.kind in IMMUTABLE_SEQUENCES)
        ):
            self.order.immutables.append(value)
        else:
            self.order.mutables.append(value)

    def children(self, value: Any) -> tuple[list[Any], int]:
        """Return the containers a container holds, and how many values in all."""
        kind = type(value)
        if kind is list or kind is tuple:
            return self.containers(value), len(value)
        if kind is dict:
            return self.mapping(value.keys(), value.values(), len(value), checked=True)
        if kind is MappingSpec:
            pairs = value.pairs
            found, count = self.mapping(pairs[::2], pairs[1::2], len(pairs))
            return found + self.containers([value.metadata]), count
        if kind is SequenceSpec:
            elements = value.elements
            if value.kind in ("set", "frozenset"):
                return self.mapping(elements, (), len(elements))
            return self.containers(elements), len(elements)
        if kind is OpaqueSpec:
            return self.opaque(value)
        if kind is NamespaceSpec:
            return self.containers(value.attributes.values()), len(value.attributes)
        if kind is ExtraSpec:
            return self.containers([value.args, value.state]), 2
        return self.containers(value.elements), len(value.elements)

    def opaque(self, value: OpaqueSpec) -> tuple[list[Any], int]:
        pairs = value.pairs or []
        found, count = self.mapping(pairs[::2], pairs[1::2], len(pairs))
        rest = [value.args, value.state, value.elements]
        if value.kwargs:
            rest.append(value.kwargs)
        return found + self.containers(rest), count + len(rest)

    def mapping(
        self, keys: Any, values: Iterable[Any], count: int, *, checked: bool = False
    ) -> tuple[list[Any], int]:
        """Return the containers among keys and values; rule 3 for the keys.

        Args:
            keys: All keys of one dictionary or set.
            values: Its values.
            count: How many of both there are.
            checked: Whether the machine has checked the keys it could hash.
        """
        found: list[Any] = []
        if not set(map(type, keys)) <= SCALARS:
            found = self.node_keys(keys)
        elif not checked:
            self.guard.check_all(list(keys))
        return found + self.containers(values), count

    def node_keys(self, keys: Iterable[Any]) -> list[Any]:
        """Check keys that are more than scalars; return the containers among them."""
        settled = [key if type(key) in SCALARS else settle(key) for key in keys]
        known: list[Any] = []
        uncounted = 0
        for key in settled:
            refuse_unhashable(key)
            if type(key) is tuple:
                self.guard.check_tuple(key)
            value = hashed_value(key)
            if value is not UNKNOWN:
                known.append(value)
            else:
                uncounted += is_late(key)
        self.guard.check_all(known)
        # If all of them collide, each is compared with all before it.
        self.probes += uncounted * uncounted
        if self.probes > _MAX_UNCOUNTED_PROBES:
            raise LimitExceededError(
                "max_key_probes", allowed=_MAX_UNCOUNTED_PROBES, requested=self.probes
            )
        return self.containers(settled)

    def containers(self, values: Iterable[Any]) -> list[Any]:
        """Return the containers among values; rule 4 for the rest."""
        found: list[Any] = []
        if ATOMS.issuperset(map(type, values)):
            return found
        for value in values:
            kind = type(value)
            # A tensor is a leaf, and the most common one.
            if kind is TensorCall or kind in ATOMS:
                continue
            if kind in _SETS and value.value is UNCHECKED:
                # Charged before it has a spec: it is the smallest thing to ask for.
                self.charge(_SET_WEIGHT)
            item = settle(value) if kind in _NODES else value
            kind = type(item)
            if kind is dict or kind is list or kind is tuple or kind in _COMPOSITES:
                if kind in _COMPOSITES or len(item) > _SMALL or not _is_plain(item):
                    found.append(item)
                else:
                    self.small += 1 + len(item)
            elif kind not in ATOMS and not isinstance(item, Spec):
                raise MalformedFileError("a value of no known kind")
        return found


def _is_plain(container: Any) -> bool:
    """Say whether a dict, list or tuple holds scalars only."""
    if type(container) is dict:
        values = container.values()
        return ATOMS.issuperset(map(type, values)) and SCALARS.issuperset(
            map(type, container)
        )
    return ATOMS.issuperset(map(type, container))


def _extra_weight(value: Any) -> int:
    """Return what a few kinds take beyond what others do."""
    kind = type(value)
    if kind is ObjectArraySpec:
        return 400 + 24 * len(value.shape)
    # A deque takes its first 64 places when it is made.
    return 640 if kind is SequenceSpec and value.kind == "deque" else 0


def walk(
    root: object,
    limits: Limits,
    guard: KeyGuard,
    charge: Callable[[int], None] | None = None,
) -> Order:
    """Check everything that can be reached from a root; return the order to build in.

    Args:
        root: The value of a file.
        limits: Bounds.
        guard: Checks the keys of what is no real dictionary yet.
        charge: Counts the estimated memory of objects; None for a count of its own.

    Raises:
        MalformedFileError: A value or key is of no known kind, or an immutable value
            holds itself.
        LimitExceededError: Too deep, too large when written out, or colliding keys.
    """
    visit = _Walk(limits, guard, charge or CheckContext(limits).charge)
    order = visit.run(root)
    if visit.cyclic:
        order.immutables = _by_dependency(order.immutables, visit)
    return order


def _by_dependency(immutables: list[Any], visit: _Walk) -> list[Any]:
    """Rule 5 where there are cycles: put every immutable value after those it holds."""
    members = {id(value) for value in immutables}
    ordered: list[Any] = []
    state: dict[int, bool] = {}
    for start in immutables:
        waiting = [(start, False)]
        while waiting:
            value, finished = waiting.pop()
            if finished:
                state[id(value)] = True
                ordered.append(value)
            elif state.get(id(value)) is None:
                state[id(value)] = False
                waiting.append((value, True))
                waiting += [
                    (child, False)
                    for child in visit.children(value)[0]
                    if id(child) in members and not state.get(id(child))
                ]
            elif not state[id(value)]:
                raise MalformedFileError("an immutable value holds itself")
    return ordered
