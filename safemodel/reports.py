"""What `scan` and `inspect` found out about a file: values, and their JSON.

Nothing here reads a file. Text that comes from a file is escaped and cut before it
gets here, so that a report can be printed as it is.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from safemodel._value import Value

SCHEMA_VERSION = 1
"""Version of the JSON form; a field that changes its meaning raises it."""


class Severity(Enum):
    """How a finding is coloured. The verdict never depends on it."""

    INFO = "info"
    WARNING = "warning"
    DANGER = "danger"


class Status(Enum):
    """What became of a file."""

    CLEAN = "clean"
    REFUSED = "refused"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"


class Finding(Value):
    """One thing worth knowing about a file.

    Attributes:
        severity: How it is coloured.
        code: Which kind of finding; docs/scan.md lists them.
        message: One sentence.
        name: Dotted name concerned, if there is one.
        arguments: What it would have been called with; "" where nothing calls it.
        opcode: The opcode that triggers it.
        record: The record of the file it is in; "" for the file itself.
        position: Byte offset within that record.
    """

    severity: Severity
    code: str
    message: str
    name: str = ""
    arguments: str = ""
    opcode: str = ""
    record: str = ""
    position: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "severity": self.severity.value}

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> Finding:
        """Return the finding whose JSON form this is.

        Raises:
            KeyError: A member is missing.
            ValueError: There is no such severity.
        """
        return cls(**{**members, "severity": Severity(members["severity"])})


class TensorInfo(Value):
    """One tensor or array of a file, not loaded.

    Attributes:
        name: Where it is in the result, as ``state_dict.layer.weight``.
        kind: "tensor", "parameter", "array", "storage" or the like.
        dtype: Element type.
        shape: Length of each axis.
        nbytes: Bytes of its elements.
        storage: Key of the storage its bytes are in; "" where it has none.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    storage: str

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**vars(self), "shape": list(self.shape)}


class FileReport(Value):
    """Everything that is known about one file without building anything of it.

    Attributes:
        path: The file as it was named; "" for a buffer.
        format: What the file is.
        size: Bytes of the file.
        refused: Whether `safe_load` refuses it, with the policy of the call.
        error: Name of the exception class it raises, None if it raises none.
        error_message: Its message.
        read_error: Why the file could not be read at all (not there, no permission).
        findings: What was found, in the order of the file.
        globals: Every dotted name any pickle of the file names, each once.
        tensors: The tensors and arrays; filled by `inspect_file` only.
        unreachable: Storages nothing in the result uses; by `inspect_file` only.
    """

    path: str
    format: str = ""
    size: int = 0
    refused: bool = False
    error: str | None = None
    error_message: str | None = None
    read_error: str | None = None
    findings: tuple[Finding, ...] = ()
    globals: tuple[str, ...] = ()
    tensors: tuple[TensorInfo, ...] = ()
    unreachable: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """The verdict: is it refused, not of a format that is read, or unreadable?"""
        if self.read_error is not None:
            return Status.UNREADABLE
        if self.error in ("UnsupportedFormatError", "KeyRequiredError"):
            return Status.UNSUPPORTED
        return Status.REFUSED if self.refused else Status.CLEAN

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "schema": SCHEMA_VERSION,
            "status": self.status.value,
            **vars(self),
            "findings": [finding.to_dict() for finding in self.findings],
            "globals": list(self.globals),
            "tensors": [tensor.to_dict() for tensor in self.tensors],
            "unreachable": list(self.unreachable),
        }

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the report as JSON; docs/scan.md describes every member."""
        import json

        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> FileReport:
        """Return the report whose JSON form this is.

        Raises:
            KeyError: A member is missing.
            ValueError: It is of another version of the schema.
        """
        if members.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"not a report of schema {SCHEMA_VERSION}")
        plain = {name: members[name] for name in cls.__annotations__}
        plain["findings"] = tuple(map(Finding.from_dict, members["findings"]))
        plain["tensors"] = tuple(
            TensorInfo(**{**info, "shape": tuple(info["shape"])})
            for info in members["tensors"]
        )
        for name in ("globals", "unreachable"):
            plain[name] = tuple(members[name])
        return cls(**plain)


class FileDigests(Value):
    """What identifies the bytes of a file.

    Attributes:
        size: How many there are.
        sha256: Their SHA-256, in hexadecimal.
        blake3: Their BLAKE3, in hexadecimal.
    """

    size: int
    sha256: str = ""
    blake3: str = ""


class KeptTensor(Value):
    """One tensor of a disarmed file.

    Attributes:
        name: The path to it, joined by dots.
        dtype: Element type.
        shape: Length of each axis.
        scrubbed_bits: Low mantissa bits of each number that were overwritten.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scrubbed_bits: int = 0


class KeptOpaque(Value):
    """An object of a class outside the allowlist, kept as plain data.

    Attributes:
        path: Where it is in the result, joined by dots.
        name: Dotted name of its class.
    """

    path: str
    name: str


class LeftBehind(Value):
    """Something of the input that the output does not have.

    Attributes:
        kind: Which kind of thing; docs/disarm.md lists them.
        name: What it was called; "" where it had no name.
        size: How many bytes it took in the input.
        why: Why it is not in the output, as a phrase.
    """

    kind: str
    name: str
    size: int
    why: str


class DisarmReport(Value):
    """What `disarm` has read, kept and left behind.

    Attributes:
        path: The file or folder as it was named; "" for a buffer.
        out: Where the new one is.
        source: Size and digests of what was read; of a folder, the size alone.
        result: Size and digests of what was written; of a folder, the size alone.
        format: What the input was.
        out_format: "safetensors", "pt", "npz", "zip" or "folder".
        removed: Every call and every name that the input would have had run or
            resolved, and ours would not.
        anomalies: What was odd about the container: what readers may disagree about.
        notes: Other findings.
        left_behind: What the output does not have.
        tensors: What was kept, in the order of the file.
        opaque: Objects kept as plain data.
        changed: Kind of value, or dotted name of a class → how many became plain data.
        parts: Of a folder or an archive of models: a report for each file written.
        version: Version of this package.
        policy: What the call accepted, and which allowlist that was.
        seconds: How long it took.
    """

    path: str
    out: str
    source: FileDigests
    result: FileDigests
    format: str
    out_format: str
    removed: tuple[Finding, ...] = ()
    anomalies: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    left_behind: tuple[LeftBehind, ...] = ()
    tensors: tuple[KeptTensor, ...] = ()
    opaque: tuple[KeptOpaque, ...] = ()
    changed: dict[str, int]
    parts: tuple[DisarmReport, ...] = ()
    version: str
    policy: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        lists = ("removed", "anomalies", "notes", "parts")
        return {
            "schema": SCHEMA_VERSION,
            **vars(self),
            "source": vars(self.source),
            "result": vars(self.result),
            **{name: [one.to_dict() for one in vars(self)[name]] for name in lists},
            "left_behind": [vars(one) for one in self.left_behind],
            "tensors": [
                {**vars(one), "shape": list(one.shape)} for one in self.tensors
            ],
            "opaque": [vars(one) for one in self.opaque],
        }

    def __str__(self) -> str:
        """Return the report for people: what was read, written and removed."""
        from safemodel._report.text import report_lines

        return "\n".join(line for _, line in report_lines(self))

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the report as JSON; docs/disarm.md describes every member."""
        import json

        return json.dumps(self.to_dict(), indent=indent)

    def to_html(self) -> str:
        """Return the report as one page that needs nothing else and runs nothing.

        Long lists are cut, and say so: the JSON form has all.
        """
        from safemodel._report.html import page

        return page(self)

    @classmethod
    def from_dict(cls, members: dict[str, Any]) -> DisarmReport:
        """Return the report whose JSON form this is.

        Raises:
            KeyError: A member is missing.
            ValueError: It is of another version of the schema.
        """
        if members.get("schema") != SCHEMA_VERSION:
            raise ValueError(f"not a report of schema {SCHEMA_VERSION}")
        plain = {name: members[name] for name in cls.__annotations__}
        for name in ("source", "result"):
            plain[name] = FileDigests(**members[name])
        for name in ("removed", "anomalies", "notes"):
            plain[name] = tuple(map(Finding.from_dict, members[name]))
        plain["left_behind"] = tuple(
            LeftBehind(**one) for one in members["left_behind"]
        )
        plain["tensors"] = tuple(
            KeptTensor(**{**one, "shape": tuple(one["shape"])})
            for one in members["tensors"]
        )
        plain["opaque"] = tuple(KeptOpaque(**one) for one in members["opaque"])
        plain["parts"] = tuple(map(cls.from_dict, members["parts"]))
        return cls(**plain)
