"""One spelling for each global, whatever version of Python, torch or numpy wrote it.

A fixed table of our own (never `_compat_pickle`, never an import): a name that is not
in it is its own canonical spelling, and the allowlist holds canonical spellings only.
"""

from __future__ import annotations

_MODULES = {
    "__builtin__": "builtins",
    "copy_reg": "copyreg",
    "pathlib._local": "pathlib",
    "numpy.core.multiarray": "numpy._core.multiarray",
    "numpy.core._multiarray_umath": "numpy._core.multiarray",
    "numpy._core._multiarray_umath": "numpy._core.multiarray",
    "numpy.core.numeric": "numpy._core.numeric",
    "numpy.random.mtrand": "numpy.random._pickle",
    "numpy.random._bit_generator": "numpy.random.bit_generator",
}
"""Modules whose names moved as a whole; the rest of what they hold is not allowed."""

_RANDOM = "numpy.random._pickle"

_NAMES = {
    ("builtins", "unicode"): ("builtins", "str"),
    ("builtins", "long"): ("builtins", "int"),
    ("builtins", "xrange"): ("builtins", "range"),
    ("numpy.random", "__RandomState_ctor"): (_RANDOM, "__randomstate_ctor"),
    (_RANDOM, "__RandomState_ctor"): (_RANDOM, "__randomstate_ctor"),
    ("numpy.random", "__randomstate_ctor"): (_RANDOM, "__randomstate_ctor"),
    ("numpy.random", "__generator_ctor"): (_RANDOM, "__generator_ctor"),
    ("numpy.random", "__bit_generator_ctor"): (_RANDOM, "__bit_generator_ctor"),
    ("numpy.core.records", "recarray"): ("numpy", "recarray"),
    ("numpy._core.records", "recarray"): ("numpy", "recarray"),
    ("numpy.rec", "recarray"): ("numpy", "recarray"),
    ("numpy.core.records", "record"): ("numpy", "record"),
    ("numpy._core.records", "record"): ("numpy", "record"),
    ("numpy.rec", "record"): ("numpy", "record"),
    ("numpy.matrixlib.defmatrix", "matrix"): ("numpy", "matrix"),
    ("numpy.core.defchararray", "chararray"): ("numpy", "chararray"),
    ("numpy._core.defchararray", "chararray"): ("numpy", "chararray"),
    ("numpy.char", "chararray"): ("numpy", "chararray"),
    ("numpy._core.multiarray", "ndarray"): ("numpy", "ndarray"),
    ("numpy._core.multiarray", "dtype"): ("numpy", "dtype"),
    ("torch.nn", "Parameter"): ("torch.nn.parameter", "Parameter"),
    ("torch.nn", "Buffer"): ("torch.nn.parameter", "Buffer"),
    ("torch.tensor", "Tensor"): ("torch", "Tensor"),
    ("torch._tensor", "Tensor"): ("torch", "Tensor"),
    ("torch.tensor", "_rebuild_from_type"): ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._tensor", "_rebuild_from_type"): ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_xla_tensor"): (
        "torch._utils",
        "_rebuild_device_tensor_from_numpy",
    ),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): (
        "torch._utils",
        "_rebuild_sparse_tensor",
    ),
    ("torch", "UntypedStorage"): ("torch.storage", "UntypedStorage"),
    ("torch", "_UntypedStorage"): ("torch.storage", "UntypedStorage"),
    ("torch.storage", "_UntypedStorage"): ("torch.storage", "UntypedStorage"),
    ("torch", "TypedStorage"): ("torch.storage", "TypedStorage"),
    ("torch", "_TypedStorage"): ("torch.storage", "TypedStorage"),
    ("torch.storage", "_TypedStorage"): ("torch.storage", "TypedStorage"),
    ("torch._C", "Size"): ("torch", "Size"),
    ("torch._C", "device"): ("torch", "device"),
    ("torch._C", "dtype"): ("torch", "dtype"),
    ("torch", "double"): ("torch", "float64"),
    ("torch", "float"): ("torch", "float32"),
    ("torch", "half"): ("torch", "float16"),
    ("torch", "long"): ("torch", "int64"),
    ("torch", "int"): ("torch", "int32"),
    ("torch", "short"): ("torch", "int16"),
    ("torch", "cdouble"): ("torch", "complex128"),
    ("torch", "cfloat"): ("torch", "complex64"),
    ("torch", "chalf"): ("torch", "complex32"),
}


_ELEMENTS = (
    "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte",
    "Bool", "ComplexDouble", "ComplexFloat",
)  # fmt: skip
_CUDA = {f"{element}{kind}" for element in _ELEMENTS for kind in ("Storage", "Tensor")}


def canonical(module: str, name: str) -> tuple[str, str]:
    """Return the one spelling of a global that the allowlist knows.

    >>> canonical("__builtin__", "xrange")
    ('builtins', 'range')
    >>> canonical("numpy.core.multiarray", "_reconstruct")
    ('numpy._core.multiarray', '_reconstruct')
    """
    if module == "torch.cuda":
        # The device is only a location, which nobody but the caller decides.
        return ("torch" if name in _CUDA else module), name
    module = _MODULES.get(module, module)
    return _NAMES.get((module, name), (module, name))
