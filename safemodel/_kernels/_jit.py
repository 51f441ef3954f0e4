"""The only import of Numba's compiler; every flag of its kernels is decided here.

Kernels of the permutation are not Numba's, see `_native`.

- ``nogil``: callers run a kernel on several pieces in threads of their own. Numba's own
  threads (``parallel``) take longer to compile, and one of the layers they may run on
  ends a process that was forked, another one in which two threads call it.
- no ``fastmath``: it folds NaN away.
- no ``cache``: a cache is a file that is read through ``pickle.loads``.
- bounds are checked where ``NUMBA_BOUNDSCHECK=1`` asks for it, which the tests do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")


def kernel(function: F) -> F:
    """Return the function compiled, or as it is under ``NUMBA_DISABLE_JIT=1``."""
    return cast("F", njit(nogil=True)(function))
