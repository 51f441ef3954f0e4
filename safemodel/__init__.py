"""Open any model file without trusting it.

A model file is parsed, checked and built; nothing it names is ever imported, looked
up or called. Importing this package imports neither torch nor numpy nor numba.
"""

from safemodel._disarm import disarm
from safemodel._graph.modules import state_dict
from safemodel._graph.opaque import Opaque
from safemodel._load import safe_load
from safemodel._version import VERSION
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
    "VerificationError",
    "__version__",
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
