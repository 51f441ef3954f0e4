"""What the verbs of protected files have done: values, and their JSON.

No report has a key, a name of a plain tensor or any of a file's data: only what
everyone may count or read in the header of a seal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 1
"""Version of the JSON form; a field that changes its meaning raises it."""


class _Report(Value):
    """What all reports can do."""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        members: dict[str, Any] = dict(vars(self))
        parts = [part.to_dict() for part in members["parts"]]
        return {"schema": SCHEMA_VERSION, **members, "parts": parts}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return the report as JSON."""
        import json

        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        """Return the report for people."""
        return "\n".join(line for _, line in report_lines(self))


class ProtectReport(_Report):
    """What `protect` has written.

    Attributes:
        path: The file or folder as it was named; "" for what has no name.
        out: Where the protected one is.
        format: "safetensors", "torch" or "folder".
        size: Bytes of what was protected.
        out_size: Bytes of what was written.
        key_id: Id of the key.
        file_id: Id of the file, in hexadecimal; it stays when the file is rotated.
        epoch: Which of the file's versions.
        expires: Seconds since 1970; None for never.
        confidential: Whether tensors are encrypted.
        signer: The Ed25519 key that signed, in hexadecimal; "" if none did.
        tensors: How many tensors were protected.
        tensor_bytes: Their bytes.
        seconds: How long it took.
        parts: Of a folder: a report for each file.
    """

    path: str
    out: str
    format: str
    size: int
    out_size: int
    key_id: str
    file_id: str
    epoch: int
    expires: int | None
    confidential: bool
    signer: str
    tensors: int
    tensor_bytes: int
    seconds: float
    parts: tuple[ProtectReport, ...] = ()


class VerifyReport(_Report):
    """What `verify` has found to hold.

    Attributes:
        path: The file or folder as it was named; "" for what has no name.
        format: "safetensors", "torch" or "folder".
        size: Bytes of the file.
        key_id: Id of the key it is protected with.
        file_id: Id of the file, in hexadecimal; it stays when the file is rotated.
        epoch: Which of the file's versions.
        expires: Seconds since 1970; None for never.
        confidential: Whether tensors are encrypted.
        signer: The Ed25519 key that signed, in hexadecimal; "" if none did.
        checked_by: "key", "signature" or "key and signature".
        tensor_bytes: Bytes of all tensors.
        seconds: How long it took.
        parts: Of a folder: a report for each file.
    """

    path: str
    format: str
    size: int
    key_id: str
    file_id: str
    epoch: int
    expires: int | None
    confidential: bool
    signer: str
    checked_by: str
    tensor_bytes: int
    seconds: float
    parts: tuple[VerifyReport, ...] = ()


class RestoreReport(_Report):
    """What `restore` has written.

    Attributes:
        path: The file or folder as it was named; "" for what has no name.
        out: Where the plain one is.
        format: "safetensors", "torch" or "folder": what the protected one is.
        size: Bytes of the protected file.
        out_size: Bytes of what was written.
        key_id: Id of the key.
        file_id: Id of the protected file, in hexadecimal.
        epoch: Which of the file's versions.
        expires: Seconds since 1970; None for never.
        confidential: Whether tensors were encrypted.
        signer: The Ed25519 key that signed, in hexadecimal; "" if none did.
        tensors: How many tensors were restored.
        tensor_bytes: Their bytes.
        seconds: How long it took.
        parts: Of a folder: a report for each file.
    """

    path: str
    out: str
    format: str
    size: int
    out_size: int
    key_id: str
    file_id: str
    epoch: int
    expires: int | None
    confidential: bool
    signer: str
    tensors: int
    tensor_bytes: int
    seconds: float
    parts: tuple[RestoreReport, ...] = ()


class RotateReport(_Report):
    """What `rotate` has written.

    Attributes:
        path: The file or folder as it was named; "" for what has no name.
        out: Where the new one is.
        format: "safetensors", "torch" or "folder".
        size: Bytes of the old file.
        out_size: Bytes of the new one.
        old_key_id: Id of the key it had.
        key_id: Id of the key it has.
        file_id: Id of the file, in hexadecimal; both have the same.
        old_epoch: Which of the file's versions it was.
        epoch: Which of the file's versions it is: the next one.
        expires: Seconds since 1970; None for never.
        confidential: Whether tensors are encrypted.
        signer: The Ed25519 key that signed, in hexadecimal; "" if none did.
        tensors: How many tensors were protected anew.
        tensor_bytes: Their bytes.
        seconds: How long it took.
        parts: Of a folder: a report for each file.
    """

    path: str
    out: str
    format: str
    size: int
    out_size: int
    old_key_id: str
    key_id: str
    file_id: str
    old_epoch: int
    epoch: int
    expires: int | None
    confidential: bool
    signer: str
    tensors: int
    tensor_bytes: int
    seconds: float
    parts: tuple[RotateReport, ...] = ()


def report_lines(report: Any) -> Iterator[tuple[str, str]]:
    """Yield the lines of a report, and before each what it is."""
    from safemodel._report.protect_text import how_text, protect_lines
    from safemodel._report.words import count_text

    members = vars(report)
    if isinstance(report, VerifyReport):
        return protect_lines(
            members, f"Every byte is as it was, by {report.checked_by}."
        )
    if isinstance(report, RestoreReport):
        tensors = count_text(report.tensors, "tensor")
        said = f"{tensors} restored: byte for byte what was protected."
        return protect_lines(members, said)
    again = " anew" if isinstance(report, RotateReport) else ""
    return protect_lines(members, how_text(members, again))
