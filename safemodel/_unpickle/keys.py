"""Which dictionary keys and set elements may be hashed, and at what cost.

Rules:

1. A key is a scalar, text, bytes, a node (hashed by identity), or a tuple of those;
   tuples are counted through before anything hashes them, because hashing a tuple
   recurses in C (a nest three million deep ends the process) and visits a shared
   tuple once per path (2**60 visits from 300 bytes).
2. Text and bytes used as keys are short, because each lookup may compare them
   (integers are short everywhere: `Limits.max_integer_bytes`).
3. The keys of one table may not be made to collide, and none may be looked up again
   and again behind a long row of others. Python salts the hashes of text and bytes
   only (and of those but the empty ones), so the probe sequence of the others is
   replayed on a table of our own, and a file whose keys need many probes is refused
   before it costs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._unpickle.nodes import (
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    TensorCall,
)
from safemodel.errors import LimitExceededError, MalformedFileError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from safemodel.limits import Limits

_FREE_KEYS = 256

_SALTED = frozenset({str, bytes})
_NODES = frozenset({Call, FrozenSetNode, GlobalRef, PersistentRef, TensorCall})
_COUNTED = frozenset({int, float, bool, type(None)})
_HASHABLE = _SALTED | _NODES | _COUNTED
_FREE = object()


class ProbeTable:
    """A twin of Python's hash table that counts what looking up a key would cost.

    It is never larger than the real one: it grows at the same number of keys, and a
    key that is there already takes no second place. In a larger one keys would
    collide less.

    Source: the open addressing described at the top of CPython's ``dictobject.c``.
    """

    __slots__ = ("_keys", "_mask", "_run", "_slots", "probes", "seen")

    def __init__(self) -> None:
        self._mask = 7
        self._slots: list[Any] = [_FREE] * 8
        self._keys: list[Any] = []
        # While the keys are 0, 1, 2 and so on they cannot collide, and stand nowhere.
        self._run: int | None = 0
        self.seen = 0
        self.probes = 0

    def add(self, keys: list[Any], limits: Limits) -> None:
        """Insert keys; refuse once the average cost passes the limit.

        Raises:
            LimitExceededError: More than `max_key_probes` probes a key.
        """
        if self._run is not None:
            after = self._run + len(keys)
            if keys == list(range(self._run, after)):
                self._run = after
                return
            row, self._run = range(self._run), None
            self._insert_all(row, limits)
        self._insert_all(keys, limits)

    def _insert_all(self, keys: Iterable[Any], limits: Limits) -> None:
        for key in keys:
            self.seen += 1
            self._insert(key)
            if self.probes > limits.max_key_probes * (self.seen + _FREE_KEYS):
                raise LimitExceededError(
                    "max_key_probes",
                    allowed=limits.max_key_probes,
                    requested=self.probes // self.seen,
                )

    def _insert(self, key: Any) -> None:
        probes, is_new = self._place(key)
        self.probes += probes
        if not is_new:
            return
        self._keys.append(key)
        if len(self._keys) > (self._mask + 1) * 2 // 3:
            self._mask = self._mask * 2 + 1
            self._slots = [_FREE] * (self._mask + 1)
            moved = sum(self._place(old)[0] for old in self._keys)
            # Nothing is compared then, and it happens as often as the table doubles.
            self.probes += moved // 8

    def _place(self, key: Any) -> tuple[int, bool]:
        """Put a key into its slot; return the probes, and whether it was not there."""
        slots, mask = self._slots, self._mask
        value = hash(key)
        perturb = value & 0xFFFFFFFFFFFFFFFF
        slot = value & mask
        probes = 1
        while (other := slots[slot]) is not _FREE:
            if other is key or (hash(other) == value and other == key):
                return probes, False
            perturb >>= 5
            slot = (slot * 5 + perturb + 1) & mask
            probes += 1
        slots[slot] = key
        return probes, True


class KeyGuard:
    """Checks the keys of every dictionary and set of one file, before they are hashed.

    `has_long_text` is set by whoever reads text or bytes longer than
    `Limits.max_key_bytes`; while it is unset, lengths need no second look.
    """

    __slots__ = ("_limits", "_tables", "has_long_text")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tables: dict[int, tuple[object, ProbeTable]] = {}
        self.has_long_text = False

    def check(self, owner: dict[Any, Any], keys: list[Any]) -> None:
        """Check keys about to be inserted into a dictionary.

        Raises:
            MalformedFileError: A key cannot be hashed.
            LimitExceededError: A key is too large, or the keys collide.
        """
        kinds = set(map(type, keys))
        if self.has_long_text:
            self._check_lengths(keys)
        # The owner is kept beside its table so that its id cannot be used again.
        entry = self._tables.get(id(owner))
        if kinds <= _SALTED and entry is None:
            return
        for key in () if kinds <= _HASHABLE else keys:
            if type(key) is tuple:
                self.check_tuple(key)
            elif type(key) not in _HASHABLE:
                raise MalformedFileError(f"a {type(key).__name__} cannot be a key")
        if entry is None:
            # So few are cheap even if each one has to pass all the others.
            if len(owner) + len(keys) <= _FREE_KEYS:
                return
            entry = self._tables[id(owner)] = (owner, ProbeTable())
            entry[1].add(_counted(list(owner)), self._limits)
        entry[1].add(_counted(keys, kinds), self._limits)

    def check_all(self, keys: list[Any]) -> None:
        """Check all keys of one table, plain values with the hashes of the real ones.

        Raises:
            LimitExceededError: A text is too long, or the keys collide.
        """
        self._check_lengths(keys)
        if len(keys) > _FREE_KEYS:
            ProbeTable().add(_counted(keys), self._limits)

    def _check_lengths(self, keys: list[Any]) -> None:
        allowed = self._limits.max_key_bytes
        for key in keys:
            if type(key) in _SALTED and len(key) > allowed:
                raise LimitExceededError(
                    "max_key_bytes", allowed=allowed, requested=len(key)
                )

    def check_tuple(self, key: tuple[Any, ...]) -> None:
        """Rule 1: count every node a hash would visit, without recursion.

        Raises:
            MalformedFileError: A part of it cannot be hashed.
            LimitExceededError: It is too large.
        """
        waiting: list[Any] = [key]
        seen = 0
        while waiting:
            node = waiting.pop()
            seen += 1
            kind = type(node)
            if kind is tuple:
                nodes = seen + len(waiting) + len(node)
                if nodes > self._limits.max_key_nodes:
                    raise LimitExceededError(
                        "max_key_nodes",
                        allowed=self._limits.max_key_nodes,
                        requested=nodes,
                    )
                waiting.extend(node)
            elif kind in _SALTED:
                if self.has_long_text:
                    self._check_lengths([node])
            elif kind not in _HASHABLE:
                raise MalformedFileError(f"a {kind.__name__} cannot be part of a key")


def _counted(keys: list[Any], kinds: Collection[type] = _SALTED) -> list[Any]:
    """Return the keys whose hashes a file can choose."""
    if _COUNTED.issuperset(kinds):
        return keys
    return [
        key
        for key in keys
        if type(key) not in _NODES and not (type(key) in _SALTED and key)
    ]
