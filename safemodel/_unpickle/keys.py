"""Which dictionary keys and set elements may be hashed, and at what cost.

Rules:

1. A key is a scalar, text, bytes, a node (hashed by identity), or a tuple of those;
   tuples are counted through before anything hashes them, because hashing a tuple
   recurses in C (a nest three million deep ends the process) and visits a shared
   tuple once per path (2**60 visits from 300 bytes).
2. Text and bytes used as keys are short, because each lookup may compare them
   (integers are short everywhere: `Limits.max_integer_bytes`).
3. The keys of one table may not be made to collide. Python salts the hashes of text
   and bytes only, so the probe sequence of the others is replayed on a table of our
   own, and a file whose keys need many probes is refused before it costs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safemodel._unpickle.nodes import (
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    TensorCall,
)
from safemodel.errors import LimitExceededError, MalformedFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from safemodel.limits import Limits

_NARROW = 1 << 16
_FREE_WIDE_KEYS = 256

_STR_ONLY = {str}
_SALTED = frozenset({str, bytes, type(None), bool})
_UNCOUNTED = _SALTED | {
    Call,
    FrozenSetNode,
    GlobalRef,
    PersistentRef,
    TensorCall,
}
_HASHABLE = _UNCOUNTED | {int, float}


class ProbeTable:
    """A twin of Python's hash table that counts what inserting a key would cost.

    Source: the open addressing described at the top of CPython's ``dictobject.c``.
    """

    __slots__ = ("_hashes", "_mask", "_slots", "keys", "probes")

    def __init__(self) -> None:
        self._mask = 1023
        self._slots = bytearray(1024)
        self._hashes: list[int] = []
        self.keys = 0
        self.probes = 0

    def add(self, hashes: Iterable[int], limits: Limits) -> None:
        """Insert hashes; refuse once the average cost passes the limit.

        Raises:
            LimitExceededError: More than `max_key_probes` probes a key.
        """
        for value in hashes:
            self._hashes.append(value)
            self.keys += 1
            if self.keys * 3 > self._mask * 2:
                self._grow()
            self.probes += self._insert(value)
            if self.probes > limits.max_key_probes * (self.keys + _FREE_WIDE_KEYS):
                raise LimitExceededError(
                    "max_key_probes",
                    allowed=limits.max_key_probes,
                    requested=self.probes // self.keys,
                )

    def _insert(self, value: int) -> int:
        slots, mask = self._slots, self._mask
        perturb = value & 0xFFFFFFFFFFFFFFFF
        slot = value & mask
        probes = 1
        while slots[slot]:
            perturb >>= 5
            slot = (slot * 5 + perturb + 1) & mask
            probes += 1
        slots[slot] = 1
        return probes

    def _grow(self) -> None:
        self._mask = self._mask * 2 + 1
        self._slots = bytearray(self._mask + 1)
        for value in self._hashes[:-1]:
            self._insert(value)


class KeyGuard:
    """Checks the keys of every dictionary and set of one file, before they are hashed.

    `has_long_text` is set by whoever reads text or bytes longer than
    `Limits.max_key_bytes`; while it is unset, lengths need no second look.
    """

    __slots__ = ("_limits", "_tables", "_wide", "has_long_text")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._tables: dict[int, tuple[object, ProbeTable]] = {}
        self._wide: dict[int, tuple[object, list[int]]] = {}
        self.has_long_text = False

    def check(self, owner: object, keys: Sequence[object]) -> None:
        """Check keys about to be inserted into the table ``owner``.

        Raises:
            MalformedFileError: A key cannot be hashed.
            LimitExceededError: A key is too large, or the keys collide.
        """
        kinds = set(map(type, keys))
        if self.has_long_text:
            self._check_lengths(keys)
        if kinds == _STR_ONLY or kinds <= _SALTED:
            return
        wide: list[int] = []
        for key in keys:
            kind = type(key)
            if kind is int:
                if -_NARROW <= key <= _NARROW:  # type: ignore[operator]
                    continue
            elif kind is tuple:
                self._check_tuple(key)  # type: ignore[arg-type]
            elif kind in _UNCOUNTED:
                continue
            elif kind is not float:
                raise MalformedFileError(f"a {kind.__name__} cannot be a key")
            wide.append(hash(key))
        if wide:
            self._count(owner, wide)

    def check_hashes(self, owner: object, hashes: list[int]) -> None:
        """Check keys whose hashes are already known to be cheap (built values)."""
        self._count(owner, hashes)

    def _count(self, owner: object, wide: list[int]) -> None:
        # The owner is kept beside its table so that its id cannot be used again.
        entry = self._tables.get(id(owner))
        if entry is None:
            _, few = self._wide.setdefault(id(owner), (owner, []))
            few.extend(wide)
            if len(few) <= _FREE_WIDE_KEYS:
                return
            entry = self._tables[id(owner)] = (owner, ProbeTable())
            wide = few
        entry[1].add(wide, self._limits)

    def _check_lengths(self, keys: Sequence[object]) -> None:
        allowed = self._limits.max_key_bytes
        for key in keys:
            if type(key) in (str, bytes) and len(key) > allowed:  # type: ignore[arg-type]
                raise LimitExceededError(
                    "max_key_bytes",
                    allowed=allowed,
                    requested=len(key),  # type: ignore[arg-type]
                )

    def _check_tuple(self, key: tuple[object, ...]) -> None:
        """Rule 1: count every node a hash would visit, without recursion."""
        waiting: list[object] = [key]
        seen = 0
        while waiting:
            node = waiting.pop()
            seen += 1
            kind = type(node)
            if kind is tuple:
                nodes = seen + len(waiting) + len(node)  # type: ignore[arg-type]
                if nodes > self._limits.max_key_nodes:
                    raise LimitExceededError(
                        "max_key_nodes",
                        allowed=self._limits.max_key_nodes,
                        requested=nodes,
                    )
                waiting.extend(node)  # type: ignore[arg-type]
            elif kind in (str, bytes):
                if self.has_long_text:
                    self._check_lengths([node])
            elif kind not in _HASHABLE:
                raise MalformedFileError(f"a {kind.__name__} cannot be part of a key")
