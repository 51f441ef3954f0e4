"""The allowlist: every global a file may name, and what checks its use.

Names are exact (module, name) pairs in one canonical spelling: no prefixes, no
wildcards, no attribute walks. Three tables, because a name may be fine in one place
and not in another:

* `ALLOWED_CALLS`: may be called; its checker decides about the arguments.
* `ALLOWED_VALUES`: a value without being called, such as ``torch.float32``.
* `ALLOWED_ARGUMENTS`: classes that allowed calls take as arguments. Alone they are
  data of no use: an opaque value that holds the name.

There is nothing to add to at run time: a caller's own classes go into a `Policy`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from safemodel._graph.composite_specs import OpaqueSpec
from safemodel._graph.reconstructors import (
    builtins_,
    joblib_arrays,
    numpy_dtypes,
    numpy_values,
    stdlib_values,
    torch_nested,
    torch_tensors,
    torch_values,
)
from safemodel._graph.reconstructors.aliases import canonical
from safemodel._graph.reconstructors.common import (
    Entry,
    Table,
    ValueEntry,
    dotted,
)
from safemodel._graph.reconstructors.delegates import delegates
from safemodel.errors import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from safemodel.policy import Policy


def _ellipsis() -> object:
    return ...


def _not_implemented() -> object:
    return NotImplemented


def _entries() -> Table:
    """Return every entry that may be called."""
    table: Table = {
        **torch_tensors.CALLS,
        **torch_values.CALLS,
        **numpy_dtypes.CALLS,
        **numpy_values.CALLS,
        **joblib_arrays.CALLS,
        **builtins_.CALLS,
        **stdlib_values.CALLS,
    }
    # Made from a copy: copyreg's functions are not classes they may name.
    return {**table, **delegates(dict(table))}


ALLOWED_CALLS: Mapping[tuple[str, str], Entry] = MappingProxyType(_entries())

ALLOWED_VALUES: Mapping[tuple[str, str], ValueEntry] = MappingProxyType(
    {
        **torch_values.VALUES,
        **numpy_dtypes.VALUES,
        ("builtins", "Ellipsis"): ValueEntry(_ellipsis, "Ellipsis"),
        ("builtins", "NotImplemented"): ValueEntry(_not_implemented, "NotImplemented"),
    }
)

STORAGE_DTYPES: Mapping[tuple[str, str], tuple[str, int]] = MappingProxyType(
    {
        ("torch.storage" if name == "UntypedStorage" else "torch", name): element
        for name, element in torch_values.STORAGE_DTYPES.items()
    }
)
"""Storage classes: (dtype, bytes an element). `TypedStorage` has no dtype: not here."""

ALLOWED_ARGUMENTS: frozenset[tuple[str, str]] = frozenset(
    {
        *STORAGE_DTYPES,
        ("torch.storage", "TypedStorage"),
        *(("torch.sparse", name) for name in torch_values.TENSOR_DTYPES),
        ("torch", "dtype"),
        torch_nested.CLASS,
        ("numpy", "ndarray"),
        ("numpy", "matrix"),
        ("numpy", "recarray"),
        ("numpy", "chararray"),
        ("numpy", "record"),
        ("numpy.random.bit_generator", "SeedSequence"),
        *((module, name) for name, module in numpy_values.BIT_GENERATORS.items()),
        ("builtins", "object"),
    }
)


def value_of_global(module: str, name: str) -> object | None:
    """Return what a global stands for where nothing calls it; None if not allowed.

    A new spec for each file, because `_build` keeps what it makes in it.
    """
    key = canonical(module, name)
    entry = ALLOWED_VALUES.get(key)
    if entry is not None:
        return entry.make()
    if key in ALLOWED_CALLS or key in ALLOWED_ARGUMENTS:
        return OpaqueSpec(dotted(key))
    return None


def describe() -> list[tuple[str, str, str]]:
    """Return one line an entry: (dotted name, what it becomes, what is checked)."""
    lines = [
        (dotted(name), entry.becomes, entry.checks)
        for name, entry in ALLOWED_CALLS.items()
    ]
    lines += [
        (dotted(name), entry.becomes, "nothing: it is a constant")
        for name, entry in ALLOWED_VALUES.items()
    ]
    lines += [
        (dotted(name), "its name", "only as an argument of the calls above")
        for name in ALLOWED_ARGUMENTS
    ]
    return sorted(lines)


def policy_version(policy: Policy) -> str:
    """Return what a policy accepts, and which allowlist that was, in one line.

    >>> from safemodel.policy import STRICT
    >>> policy_version(STRICT)[:20]
    'refuse, allowlist of'
    """
    from hashlib import sha256

    names = sorted(map(dotted, {*ALLOWED_CALLS, *ALLOWED_VALUES}))
    digest = sha256("\n".join(names).encode()).hexdigest()[:12]
    extra = "".join(f", and {quote(name)}" for name in policy.extra)
    return f"{policy.others}, allowlist of {len(names)} names {digest}{extra}"
