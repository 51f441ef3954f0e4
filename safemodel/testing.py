"""Hostile model files on demand, and checks of loaders and of model files.

For the tests of projects that load model files. No payload does harm: each one calls
the canary, which records that it was called.

    from safemodel.testing import assert_refuses, hostile_files

    for hostile in hostile_files():
        path = tmp_path / hostile.file_name
        path.write_bytes(hostile.content())
        assert_refuses(my_loader, path)

    assert_safe("models/")  # nothing that safe_load refuses has got in there

Needs neither pytest nor torch. The files are written opcode by opcode: this module
does not use `pickle`, and nothing here runs what it writes.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from safemodel.errors import (
    ForbiddenGlobalError,
    ForbiddenOpcodeError,
    LimitExceededError,
    MalformedFileError,
    SafeModelError,
    TruncatedFileError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from safemodel._types import StrPath

__all__ = [
    "CANARY",
    "Canary",
    "CanaryTrippedError",
    "HostileFile",
    "HostileModel",
    "assert_no_hidden_payload",
    "assert_refuses",
    "assert_safe",
    "hostile_files",
    "trip",
]


class CanaryTrippedError(AssertionError):
    """A loader ran what a file told it to run, or returned instead of refusing."""


class Canary:
    """Records every call of `trip`.

    Attributes:
        trips: The arguments of each call, in order.
    """

    __slots__ = ("trips",)

    def __init__(self) -> None:
        self.trips: list[tuple[object, ...]] = []

    def reset(self) -> None:
        """Forget earlier calls."""
        self.trips.clear()


CANARY = Canary()


def trip(*args: object) -> str:
    """Record a call. This is what the hostile files ask a loader to call."""
    CANARY.trips.append(args)
    return "tripped"


@dataclass(frozen=True, kw_only=True)
class HostileFile:
    """One hostile file: how to make it and what `safe_load` answers.

    Attributes:
        name: A word for test ids.
        why: What the file tries, in a sentence.
        error: The exact class `safemodel.safe_load` raises.
        file_name: A file name with the extension such files carry.
        content: Returns the bytes.
    """

    name: str
    why: str
    error: type[SafeModelError]
    content: Callable[[], bytes]
    file_name: str = "model.pt"


class HostileModel(NamedTuple):
    """A hostile file on disk: what the fixture ``hostile_model`` gives.

    Attributes:
        path: Where it is.
        name: Of the kind, as `HostileFile.name`.
        why: What it tries.
        error: What `safemodel.safe_load` raises for it.
    """

    path: Path
    name: str
    why: str
    error: type[SafeModelError]


def assert_safe(path: StrPath, *, allow_unsupported: bool = False) -> None:
    """Check that `safemodel.safe_load` would open every model file, and run nothing.

    Args:
        path: A file, or a folder, which is walked to the bottom.
        allow_unsupported: Pass files of formats that safemodel does not read. Nothing
            is known about them.

    Raises:
        AssertionError: A file is refused, holds something that another reader would
            run, cannot be read, or there is no file at all.
        ValueError: There is no such path.
    """
    from safemodel.reports import Severity, Status
    from safemodel.scanning import scan_files

    passed = {Status.CLEAN} | ({Status.UNSUPPORTED} if allow_unsupported else set())
    reports = list(scan_files([path]))
    bad = [
        report
        for report in reports
        if report.status not in passed
        or any(found.severity is Severity.DANGER for found in report.findings)
    ]
    if bad:
        raise AssertionError("\n".join(str(report) for report in bad))
    if not reports:
        raise AssertionError(f"no model file in {os.fspath(path)!r}")


def assert_no_hidden_payload(path: StrPath) -> None:
    """Check that `safemodel.detect` finds no evidence of data hidden in weights.

    That is no proof: docs/detect.md says what nobody can find. One clean file in some
    hundreds fails, as `safemodel.Detection.false_positive_rate` says.

    Args:
        path: A model file, or a folder of shards.

    Raises:
        AssertionError: There is evidence; its text is the whole report.
        SafeModelError: The file is refused, malformed or not supported.
        OSError: It cannot be read.
    """
    from safemodel.detection import Verdict, detect

    found = detect(path)
    if found.verdict is Verdict.SUSPICIOUS:
        raise AssertionError(str(found))


def assert_refuses(loader: Callable[[StrPath], object], path: StrPath) -> None:
    """Check that a loader raises for a hostile file and runs nothing of it.

    Args:
        loader: Called with the path alone, e.g. `safemodel.safe_load`.
        path: A hostile file whose payload calls `safemodel.testing.trip`.

    Raises:
        CanaryTrippedError: The loader returned, or the payload ran.
    """
    CANARY.reset()
    refusal: Exception | None = None
    try:
        loader(path)
    # Any exception is a refusal, whoever's loader this is; what counts is that the
    # payload did not run on the way to it.
    except Exception as error:  # noqa: BLE001
        refusal = error
    trips = len(CANARY.trips)
    CANARY.reset()
    if trips:
        end = "then raised " + repr(refusal) if refusal else "and returned"
        raise CanaryTrippedError(f"the loader ran the payload {trips} times {end}")
    if refusal is None:
        raise CanaryTrippedError("the loader returned instead of refusing")


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _global(module: str, name: str) -> bytes:
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


_TRIP = _global(__name__, "trip") + _text("a pickle ran") + b"\x85R"


def _reduce() -> bytes:
    return b"\x80\x02" + _TRIP + b"."


def _stack_global() -> bytes:
    named = b"\x8c" + bytes([len(__name__)]) + __name__.encode() + b"\x8c\x04trip"
    return b"\x80\x04" + named + b"\x93)R."


def _inst() -> bytes:
    return b"(Va pickle ran\ni" + __name__.encode() + b"\ntrip\n."


def _obj() -> bytes:
    return b"\x80\x02(" + _global(__name__, "trip") + _text("a pickle ran") + b"o."


def _popped() -> bytes:
    return b"\x80\x02" + _TRIP + b"0}."


def _truncated() -> bytes:
    return b"\x80\x02" + _TRIP + b"X\x10\x00\x00\x00cut"


def _resolver() -> bytes:
    found = _global("pkgutil", "resolve_name") + _text(f"{__name__}:trip") + b"\x85R"
    return b"\x80\x02" + found + b")R."


def _extension() -> bytes:
    return b"\x80\x02\x82\x01" + _text("a pickle ran") + b"\x85R."


def _deep_key() -> bytes:
    return b"\x80\x02})" + b"\x85" * 100_000 + b"Ns."


def _announced() -> bytes:
    return b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x."


def _zip(members: list[tuple[str, bytes]]) -> bytes:
    """Return a stored zip archive."""
    out, central = bytearray(), bytearray()
    for name, content in members:
        fields = struct.pack("<IIIHH", zlib.crc32(content), len(content),
                             len(content), len(name), 0)  # fmt: skip
        start = struct.pack("<HHHHH", 20, 0, 0, 0, 0x21) + fields
        central += struct.pack("<IH", 0x02014B50, 20) + start
        central += struct.pack("<HHHII", 0, 0, 0, 0, len(out)) + name.encode()
        out += struct.pack("<I", 0x04034B50) + start + name.encode() + content
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(members), len(members),
                      len(central), len(out), 0)  # fmt: skip
    return bytes(out + central + end)


def _torch_zip() -> bytes:
    return _zip(
        [
            ("archive/data.pkl", _reduce()),
            ("archive/byteorder", b"little"),
            ("archive/version", b"3\n"),
        ]
    )


def _two_pickles() -> bytes:
    return _zip(
        [
            ("archive/data.pkl", b"\x80\x02}."),
            ("archive/data.pkl", _reduce()),
            ("archive/version", b"3\n"),
        ]
    )


def _legacy() -> bytes:
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    version = b"\x80\x02M\xe9\x03."
    system = b"\x80\x02}(" + _text("little_endian") + b"\x88u."
    return magic + version + system + _reduce() + b"\x80\x02]."


_HOSTILE = (
    HostileFile(
        name="reduce",
        why="a bare pickle calls a function",
        error=ForbiddenGlobalError,
        content=_reduce,
        file_name="model.pkl",
    ),
    HostileFile(
        name="torch_zip",
        why="the pickle of a torch archive calls a function",
        error=ForbiddenGlobalError,
        content=_torch_zip,
    ),
    HostileFile(
        name="legacy",
        why="the fourth pickle of a pre-1.6 stream calls a function",
        error=ForbiddenGlobalError,
        content=_legacy,
        file_name="model.pth",
    ),
    HostileFile(
        name="stack_global",
        why="STACK_GLOBAL names the function",
        error=ForbiddenGlobalError,
        content=_stack_global,
        file_name="model.bin",
    ),
    HostileFile(
        name="inst",
        why="INST names and calls in one opcode of protocol 0",
        error=ForbiddenGlobalError,
        content=_inst,
        file_name="model.pkl",
    ),
    HostileFile(
        name="obj",
        why="OBJ calls what lies under its mark",
        error=ForbiddenGlobalError,
        content=_obj,
        file_name="model.pkl",
    ),
    HostileFile(
        name="popped",
        why="the result of the call is thrown away, the file holds an empty dict",
        error=ForbiddenGlobalError,
        content=_popped,
        file_name="model.ckpt",
    ),
    HostileFile(
        name="resolver",
        why="pkgutil.resolve_name fetches the function by a string",
        error=ForbiddenGlobalError,
        content=_resolver,
        file_name="model.pkl",
    ),
    HostileFile(
        name="truncated",
        why="the call comes first, then the file breaks off",
        error=TruncatedFileError,
        content=_truncated,
        file_name="model.bin",
    ),
    HostileFile(
        name="extension",
        why="EXT1 reaches into the extension registry of the process",
        error=ForbiddenOpcodeError,
        content=_extension,
        file_name="model.pkl",
    ),
    HostileFile(
        name="two_pickles",
        why="two members of one name: readers disagree which one counts",
        error=MalformedFileError,
        content=_two_pickles,
    ),
    HostileFile(
        name="deep_key",
        why="hashing a deeply nested key overflows the C stack",
        error=LimitExceededError,
        content=_deep_key,
        file_name="model.pkl",
    ),
    HostileFile(
        name="announced",
        why="a length of 2**62 bytes is announced",
        error=TruncatedFileError,
        content=_announced,
        file_name="model.pkl",
    ),
)


def hostile_files() -> tuple[HostileFile, ...]:
    """Return every hostile file this module can make."""
    return _HOSTILE
