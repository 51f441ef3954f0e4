"""Open any model file without trusting it.

A model file is parsed, checked and built; nothing it names is ever imported, looked
up or called. Importing this package imports neither torch nor numpy nor numba, nor
what is in it: a name's module is imported when the name is first used, so that the
pytest plugin and the hook cost next to nothing where they are not.
"""

from typing import TYPE_CHECKING

from safemodel._version import VERSION

if TYPE_CHECKING:
    from safemodel._disarm import disarm
    from safemodel._graph.modules import state_dict
    from safemodel._graph.opaque import Opaque
    from safemodel._load import safe_load
    from safemodel.detection import Detection, Detector, Verdict, detect
    from safemodel.errors import (
        ChecksumError,
        DisarmError,
        ForbiddenCallError,
        ForbiddenGlobalError,
        ForbiddenOpcodeError,
        KeyFormatError,
        KeyRequiredError,
        LimitExceededError,
        MalformedFileError,
        SafeModelError,
        SafeModelWarning,
        StateFormatError,
        StorageBoundsError,
        TruncatedFileError,
        UnpatchedCallError,
        UnsafeFileError,
        UnsupportedFormatError,
        VerificationError,
    )
    from safemodel.limits import Limits
    from safemodel.monkeypatch import patch, patched, unpatch
    from safemodel.policy import SALVAGE, STRICT, Policy
    from safemodel.protection import ProtectionKey, protect, restore, rotate, verify
    from safemodel.scanning import inspect_file, scan_files
    from safemodel.scrub import Scrub

__version__ = VERSION

__all__ = [
    "SALVAGE",
    "STRICT",
    "ChecksumError",
    "Detection",
    "Detector",
    "DisarmError",
    "ForbiddenCallError",
    "ForbiddenGlobalError",
    "ForbiddenOpcodeError",
    "KeyFormatError",
    "KeyRequiredError",
    "LimitExceededError",
    "Limits",
    "MalformedFileError",
    "Opaque",
    "Policy",
    "ProtectionKey",
    "SafeModelError",
    "SafeModelWarning",
    "Scrub",
    "StateFormatError",
    "StorageBoundsError",
    "TruncatedFileError",
    "UnpatchedCallError",
    "UnsafeFileError",
    "UnsupportedFormatError",
    "Verdict",
    "VerificationError",
    "__version__",
    "detect",
    "disarm",
    "inspect_file",
    "patch",
    "patched",
    "protect",
    "restore",
    "rotate",
    "safe_load",
    "scan_files",
    "state_dict",
    "unpatch",
    "verify",
]

_MODULES = {
    "safemodel._disarm": "disarm",
    "safemodel._graph.modules": "state_dict",
    "safemodel._graph.opaque": "Opaque",
    "safemodel._load": "safe_load",
    "safemodel.detection": "Detection Detector Verdict detect",
    "safemodel.limits": "Limits",
    "safemodel.monkeypatch": "patch patched unpatch",
    "safemodel.policy": "SALVAGE STRICT Policy",
    "safemodel.protection": "ProtectionKey protect restore rotate verify",
    "safemodel.scanning": "inspect_file scan_files",
    "safemodel.scrub": "Scrub",
}
_MODULE_OF = {
    name: module for module, names in _MODULES.items() for name in names.split()
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # All names that are not in the table are those of errors.
    module = import_module(_MODULE_OF.get(name, "safemodel.errors"))
    found: object = getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
