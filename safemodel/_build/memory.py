"""Ask the kernel for huge pages: a quarter of loading time is page faults else."""

from __future__ import annotations

import ctypes
import sys
from mmap import PAGESIZE

_MADV_HUGEPAGE = 14  # <linux/mman.h>
_WORTHWHILE = 4 << 20  # two huge pages: less may hold none that is aligned


def _find_madvise() -> ctypes._NamedFuncPointer | None:
    """Return the C library's `madvise` where it knows huge pages."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    madvise.restype = ctypes.c_int
    return madvise


_madvise = _find_madvise()


def prefer_huge_pages(address: int, size: int) -> None:
    """Advise huge pages for the whole pages inside fresh memory; never fails.

    Only pages that lie entirely inside are named, so a neighbour's memory is not
    concerned and no page is populated that would not have been.
    """
    if _madvise is None or size < _WORTHWHILE:
        return
    first = -(-address // PAGESIZE) * PAGESIZE
    end = (address + size) // PAGESIZE * PAGESIZE
    _madvise(first, end - first, _MADV_HUGEPAGE)
