"""What a span of bytes may be, by its first bytes: the filter before a closer look.

`safe_load` decides by `sniff`; a scan must not miss what another reader would find,
so whatever could start a pickle that names something counts here.
"""

from __future__ import annotations

import re

HEAD_BYTES = 64

_IDENTIFIER = rb"[A-Za-z_\x80-\xff][\w.\x80-\xff]*"
_FILE = re.compile(
    rb"\x80[\x00-\x05]"  # PROTO
    rb"|PK\x03\x04"
    rb"|\x93NUMPY"
    rb"|[(\]})\x95]{0,8}c" + _IDENTIFIER + rb"\n" + _IDENTIFIER + rb"\n"
    rb"|\(.{0,40}?i" + _IDENTIFIER + rb"\n" + _IDENTIFIER + rb"\n"
    rb"|\x95.{4}\0{4}|\x8c[\x01-\x3f][A-Za-z_]",
    re.DOTALL,
)
_PICKLE_OPCODE = frozenset(
    b"(})]NIJKMLGFSTUXVBCcP0\x80\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96"
)
_TENSOR = re.compile(r"(?:^|/)(?:data|constants|tensors|storages)/[0-9]+$")
PROTO = re.compile(rb"\x80[\x00-\x05][^\x00]")


def may_hold_pickle(head: bytes | memoryview) -> bool:
    """Tell whether bytes start like a pickle, or like a file that may hold one."""
    return _FILE.match(head) is not None


def may_be_pickle(head: bytes) -> bool:
    """Tell whether bytes start with an opcode a pickle can start with."""
    return head[:1] != b"" and head[0] in _PICKLE_OPCODE


def is_tensor(name: str) -> bool:
    """Tell whether a record has a name that torch gives to the bytes of a tensor."""
    return _TENSOR.search(name) is not None
