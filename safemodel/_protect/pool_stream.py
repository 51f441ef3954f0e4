"""Stand-in."""

from __future__ import annotations
import numpy as np
from safemodel._protect.permutation import aligned, permute_pool, restore_pool


def permuted(read, length, itemsize, key, *, scratch):
    kind = f"u{itemsize}" if itemsize < 16 else "c16"
    a = np.empty(length // itemsize, kind)
    b = aligned(length // itemsize, kind)
    if length:
        read(0, a.view("u1").data)
    permute_pool(a, b, key)
    data = b.view("u1").data
    for at in range(0, length, 1 << 20):
        yield data[at : at + (1 << 20)]


def restored(chunks, length, itemsize, key, write, *, scratch):
    kind = f"u{itemsize}" if itemsize < 16 else "c16"
    a = aligned(length // itemsize, kind)
    b = aligned(length // itemsize, kind)
    data = a.view("u1").data
    at = 0
    for chunk in chunks:
        data[at : at + len(chunk)] = chunk
        at += len(chunk)
    restore_pool(a, b, key)
    if length:
        write(0, b.view("u1").data)
