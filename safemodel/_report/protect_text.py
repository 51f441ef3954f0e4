"""The reports of protected files as lines of text, for a terminal, a pipe or a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safemodel._report.words import count_text, form_text, shown, size_text, time_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FORMS = {"torch": form_text("pt"), "safetensors": "safetensors file"}
_MOST_PARTS = 20
_LABEL = 13

VALUES = "Order is hidden, values are not: confidential encrypts them."
"""What is said wherever somebody could think otherwise."""


def protect_lines(
    members: Mapping[str, Any], verdict: str
) -> Iterator[tuple[str, str]]:
    """Yield lines, and before each what it is; the verdict last, next to the prompt.

    Args:
        members: Those of a report.
        verdict: What was done.
    """
    out = members.get("out", "")
    path = members["path"] or "a buffer"
    yield _labelled("before" if out else "file", _file(members, path, "size"))
    if out:
        yield _labelled("after", _file(members, out, "out_size"))
    yield _labelled("key", _moved(members, "key_id"))
    yield _labelled("file id", members["file_id"])
    yield _labelled("epoch", _moved(members, "epoch"))
    if members["expires"] is not None:
        yield _labelled("expires", time_text(members["expires"]))
    if members["signer"]:
        yield _labelled("signed by", members["signer"])
    yield from _parts(members["parts"])
    yield "verdict", verdict


def how_text(members: Mapping[str, Any], again: str = "") -> str:
    """Return what was done to the tensors of a file.

    Args:
        members: Those of a report.
        again: What to say if it was not the first time.
    """
    tensors = count_text(members["tensors"], "tensor")
    if members["confidential"]:
        return f"{tensors} encrypted{again}."
    return f"{tensors} permuted{again}. {VALUES}"


def _labelled(label: str, text: str) -> tuple[str, str]:
    return "label", f"{label:<{_LABEL}}{text}"


def _file(members: Mapping[str, Any], path: str, size: str) -> str:
    """Return what one file is."""
    form = _FORMS.get(members["format"], members["format"])
    return f"{shown(path)}: {form}, {size_text(members[size])}"


def _moved(members: Mapping[str, Any], name: str) -> str:
    """Return a member, after what it was if that was something else."""
    new, old = members[name], members.get(f"old_{name}")
    return f"{new}" if old in (None, new) else f"{old} -> {new}"


def _parts(parts: Any) -> Iterator[tuple[str, str]]:
    """Yield the files of a folder, a line each."""
    if not parts:
        return
    yield _labelled("files", f"{len(parts):,}")
    for part in parts[:_MOST_PARTS]:
        members = vars(part)
        name = members.get("out") or members["path"]
        yield "", f"  {shown(name)}: {size_text(members.get('out_size', part.size))}"
    if len(parts) > _MOST_PARTS:
        more = len(parts) - _MOST_PARTS
        yield "", f"  ... {more:,} more; the JSON report has all"
