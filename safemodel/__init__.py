"""Open any model file without trusting it.

A model file is parsed, checked and built; nothing it names is ever imported, looked
up or called. Importing this package imports neither torch nor numpy nor numba.
"""

from safemodel._disarm import disarm
from safemodel._graph.modules import state_dict
from safemodel._graph.opaque import Opaque
from safemodel._load import safe_load
from safemodel._version import VERSION
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
    StateFormatError,
    StorageBoundsError,
    TruncatedFileError,
    UnsafeFileError,
    UnsupportedFormatError,
    VerificationError,
)
from safemodel.limits import Limits
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
    "Scrub",
    "StateFormatError",
    "StorageBoundsError",
    "TruncatedFileError",
    "UnsafeFileError",
    "UnsupportedFormatError",
    "Verdict",
    "VerificationError",
    "__version__",
    "detect",
    "disarm",
    "inspect_file",
    "protect",
    "restore",
    "rotate",
    "safe_load",
    "scan_files",
    "state_dict",
    "verify",
]
