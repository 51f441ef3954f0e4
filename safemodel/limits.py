"""How much a file may ask for: every bound, its unit, and why that value.

The main bounds are relative to the file itself, so they need no number here: a
length is checked against the bytes that are left, a storage against its record, a
memo index against the size of its pickle. The fields below bound what has no
natural bound. A `Limits` is a value passed to a call; nothing here is global.
"""

from __future__ import annotations

from safemodel._value import Value


class Limits(Value):
    """Bounds on one file. Exceeding one raises `LimitExceededError`.

    Attributes:
        max_pickle_bytes: Size of one pickle. 1 GiB: arrays pickled in band are
            legitimate, and memory is bounded by a multiple of this size.
        max_integer_bytes: Size of one integer; arithmetic on long ones is not linear.
        max_depth: Containers within containers in the result. 256 is a quarter of
            Python's recursion limit, so `repr` and `copy.deepcopy` of what comes
            back still work.
        max_tensors: Tensors in one file.
        max_records: Members of one archive.
        max_header_bytes: Size of a text header (safetensors JSON, `.npy`).
        max_dimensions: Axes of one tensor; torch itself prints and copies at most 64.
        max_amplification: Bytes addressable by views that are larger than their
            storage, divided by the bytes of the file.
        min_amplified_bytes: What such views may always address; an expanded mask in
            a small file is ordinary.
        max_inflation: Size of a deflated record divided by its compressed size, and of
            all of them by that of the file; DEFLATE itself reaches 1,032.
        min_inflated_bytes: What a deflated record may always inflate to; all of them
            together may to `min_amplified_bytes`.
        max_expanded_nodes: Nodes of the result if shared containers were written out
            in full, which is what `repr` and `==` visit.
        max_object_bytes: Estimated memory of containers, opaque values, tensors,
            arrays and the like, divided by the bytes of the file's pickles. Small
            containers of scalars do not count.
        min_object_bytes: What they may always take.
        max_key_probes: Hash-table probes per key, on average, that the keys of one
            dictionary may cost; honest keys need about 2.
        max_key_bytes: Length of a text or bytes key, and of the name of a global.
        max_key_nodes: Nodes of a tuple key, nested ones included.
        max_nesting: Archives within archives, or pickles within pickles.
    """

    max_pickle_bytes: int = 1 << 30
    max_integer_bytes: int = 1024
    max_depth: int = 256
    max_tensors: int = 1_000_000
    max_records: int = 1_000_000
    max_header_bytes: int = 100_000_000
    max_dimensions: int = 64
    max_amplification: float = 4.0
    min_amplified_bytes: int = 16 << 20
    max_inflation: float = 100.0
    min_inflated_bytes: int = 1 << 20
    max_expanded_nodes: int = 1 << 30
    max_object_bytes: float = 80.0
    min_object_bytes: int = 32 << 20
    max_key_probes: int = 16
    max_key_bytes: int = 1 << 16
    max_key_nodes: int = 64
    max_nesting: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be positive")


DEFAULT_LIMITS = Limits()
