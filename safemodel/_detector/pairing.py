"""Which tensor of a file is which tensor of the file it is compared with.

1. The same name, and as many numbers.
2. Else a name that is the end of the other's (``model.layer.weight`` and
   ``layer.weight``), if only one is.
3. Else the same upper halves of all words, if only one has them: a renamed tensor,
   whatever was done to its low bits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from safemodel._detector.weights import Held

_LEAST = 16


def paired(
    tensors: Iterable[Held], references: Iterable[Held]
) -> tuple[dict[str, Held], tuple[Held, ...]]:
    """Return name → what to compare it with, and what has nothing like it.

    Args:
        tensors: Of the file.
        references: Of the one it is compared with.
    """
    here = {one.name: one for one in tensors if one.role != "slack"}
    there = {one.name: one for one in references if one.role != "slack"}
    pairs: dict[str, Held] = {}

    def pair(found: Iterable[tuple[str, str]]) -> None:
        for name, other in found:
            pairs[name] = there.pop(other)
            del here[name]

    pair([(name, name) for name, one in here.items()
          if name in there and there[name].size == one.size])  # fmt: skip
    pair(_ends(here, there))
    alike = {(one.dtype, one.size) for one in here.values()} & {
        (one.dtype, one.size) for one in there.values()
    }
    pair(_unique(here, there, lambda one: _upper(one, alike)))
    return pairs, tuple(there.values())


def _ends(here: dict[str, Held], there: dict[str, Held]) -> list[tuple[str, str]]:
    """Rule 2: of names that are the end of each other, those that are alone."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in here:
        found[name] |= {end for end in _suffixes(name) if end in there}
    for other in there:
        for end in _suffixes(other):
            if end in here:
                found[end].add(other)
    alike = {
        name: [one for one in others if there[one].size == here[name].size]
        for name, others in found.items()
    }
    taken = Counter(one for others in alike.values() for one in others)
    return [
        (name, others[0])
        for name, others in alike.items()
        if len(others) == 1 and taken[others[0]] == 1
    ]


def _suffixes(name: str) -> Iterator[str]:
    """Yield what is behind each dot of a name."""
    at = name.find(".")
    while at >= 0:
        yield name[at + 1 :]
        at = name.find(".", at + 1)


def _unique(
    here: dict[str, Held],
    there: dict[str, Held],
    key_of: Callable[[Held], Hashable | None],
) -> list[tuple[str, str]]:
    """Return names whose keys are the same, where no other has that key."""
    ours: dict[Hashable, list[str]] = defaultdict(list)
    theirs: dict[Hashable, list[str]] = defaultdict(list)
    for names, into in ((here, ours), (there, theirs)):
        for name, one in names.items():
            if (key := key_of(one)) is not None:
                into[key].append(name)
    return [
        (names[0], theirs[key][0])
        for key, names in ours.items()
        if len(names) == 1 and len(theirs.get(key, ())) == 1
    ]


def _upper(one: Held, alike: set[tuple[str, int]]) -> Hashable | None:
    """Return what the upper halves of all words are known by (rule 3)."""
    if (one.dtype, one.size) not in alike or one.size < _LEAST:
        return None
    digest = blake2b(digest_size=32)
    for piece in one.weights():
        half = piece.bits.dtype.type(4 * piece.bits.itemsize)
        digest.update((piece.bits >> half).tobytes())
    return one.dtype, one.size, digest.digest()
