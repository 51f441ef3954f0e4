"""Small hostile pickles, byte by byte, and where their opcodes are."""

from __future__ import annotations

import struct

from safemodel._scan.one import Settings, scan_target
from safemodel._scan.paths import Target
from safemodel.limits import DEFAULT_LIMITS, Limits
from safemodel.reports import FileReport, Finding

EMPTY = b"\x80\x02}."
CHECKPOINT = {"archive/data.pkl": EMPTY, "archive/version": b"3\n"}


def text(value: str) -> bytes:
    """Return BINUNICODE."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def blob(value: bytes) -> bytes:
    """Return BINBYTES."""
    return b"B" + struct.pack("<I", len(value)) + value


def named(dotted: str) -> bytes:
    """Return GLOBAL."""
    module, _, name = dotted.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def call(dotted: str, *arguments: bytes) -> bytes:
    """Return GLOBAL, the arguments and REDUCE."""
    return named(dotted) + b"(" + b"".join(arguments) + b"tR"


def pickled(*parts: bytes) -> bytes:
    """Return a pickle of protocol 2 of the last of these values."""
    return b"\x80\x02" + b"0".join(parts) + b"."


EVIL = pickled(call("os.system", text("echo hi")))
"""GLOBAL at 2, REDUCE at 27."""


def scan_bytes(tmp_path, data: bytes, limits: Limits = DEFAULT_LIMITS) -> FileReport:
    """Return the report of a file with this content."""
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    settings = Settings(limits=limits, checksums=False)
    return scan_target(Target(str(path)), settings)


def only(report: FileReport, code: str) -> Finding:
    """Return the one finding of a kind."""
    (found,) = [one for one in report.findings if one.code == code]
    return found


def codes(report: FileReport) -> list[str]:
    """Return the kinds of all findings, in order."""
    return [finding.code for finding in report.findings]
