"""An archive of models: every member rebuilt as what it was, under the name it had.

Rules:

1. A model becomes a file of its own in the folder of the target, is read back there as
   any output is, and then goes into the archive. It is gone afterwards.
2. JSON is written from what was parsed of it, text from what was decoded.
3. A name is kept if every system takes it for the same plain path; if one is not, the
   archive is refused. The names together still are those of an archive of models.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from safemodel._containers.sniff import Format, classify_zip
from safemodel._rewrite.flatten import flatten
from safemodel._rewrite.leaves import TensorLeaf
from safemodel._rewrite.names import DEVICE
from safemodel._rewrite.npz_writer import write_npy
from safemodel._rewrite.output import whole_file
from safemodel._rewrite.readback import check_archive
from safemodel._rewrite.readback_flat import check_npy
from safemodel._rewrite.writers import write
from safemodel._rewrite.zip_writer import ZipWriter
from safemodel.errors import UnsupportedFormatError, quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from safemodel._rewrite.contents import Reader
    from safemodel._rewrite.output import Output
    from safemodel._rewrite.plain import Plain
    from safemodel._rewrite.writers import Check, Form

_FORMS: dict[Format, Form] = {Format.SAFETENSORS: "safetensors", Format.NPZ: "npz"}
_STEP = 4 << 20
_MOST_CHARACTERS = 200
_PART = re.compile(r"[\w.+=@,()](?:[\w.+=@,()\- ]*[\w+=@,()\-])?", re.ASCII)
_Kinds = dict[str, Format]


def write_bundle(
    out: Output,
    root: Any,
    kinds: Mapping[str, _Kinds],
    target: Path,
    plain: Plain,
    read: Reader,
    prefix: str = "",
) -> Check:
    """Write an archive; return what compares the file with it.

    Args:
        out: Receives it.
        root: Name of each member → its value.
        kinds: Prefix of an archive → what each of its members is.
        target: What is written in the end; members are made beside it.
        plain: What made the value plain.
        read: Gives the bytes of tensors.
        prefix: Of this archive.

    Raises:
        SafeModelError: The bytes of a tensor are not what the input describes, or a
            name cannot be kept (rule 3).
        OSError: Writing failed.
    """
    check_names(root)
    archive = ZipWriter(out)
    for name, value in root.items():
        kind = kinds[prefix][name]
        text = _text(kind, value)
        if text is not None:
            archive.add(name, len(text), [text])
            continue
        beside = target.with_name("member")
        whole = whole_file(beside, overwrite=True, digests=False, durable=False)
        with whole as (part, commit):
            if kind is Format.ZIP_OF_MODELS:
                inner = f"{prefix}{name}/"
                compare = write_bundle(part, value, kinds, target, plain, read, inner)
            else:
                compare = _write_model(part, kind, value, plain, read)
            found, _ = part.finish()
            compare(commit.part, found)
            archive.add(name, part.at, _pieces(commit.part))
    archive.close()
    entries = archive.entries
    return lambda path, found: check_archive(path, entries, found)


def models_of(root: Any, kinds: Mapping[str, _Kinds]) -> dict[str, object]:
    """Return the members of an archive that may hold tensors."""
    texts = (Format.JSON, Format.UNKNOWN)
    return {name: value for name, value in root.items() if kinds[""][name] not in texts}


def check_names(names: Mapping[str, object]) -> None:
    """Check the names of members (rule 3).

    Raises:
        UnsupportedFormatError: One cannot be kept, or they are those of another format.
    """
    known = {name.lower() for name in names}
    for name in names:
        parts = name.split("/")
        above = ("/".join(parts[:at]).lower() for at in range(1, len(parts)))
        if (
            len(name) > _MOST_CHARACTERS
            or not all(map(_PART.fullmatch, parts))
            or any(map(DEVICE.fullmatch, parts))
            or any(folder in known for folder in above)
        ):
            raise UnsupportedFormatError(
                f"an archive with a member named {quote(name)}, which not every system"
                " takes for a plain path; write .pt or .safetensors instead"
            )
    form = classify_zip(names)
    if form is not Format.ZIP_OF_MODELS:
        raise UnsupportedFormatError(
            f"what is kept of the archive would be taken for {form.value}; write .pt or"
            " .safetensors instead"
        )


def _text(kind: Format, value: Any) -> bytes | None:
    """Return the bytes of a member that is JSON or text (rule 2), None of a model."""
    if kind is Format.JSON:
        return json.dumps(value, allow_nan=False).encode("ascii")
    if kind is Format.UNKNOWN:
        return bytes(value, "utf-8")
    return None


def _write_model(
    out: Output, kind: Format, value: object, plain: Plain, read: Reader
) -> Check:
    """Write one model file; return what compares it with the value."""
    leaf = plain.of(value)
    if kind is Format.NPY and type(leaf) is TensorLeaf:
        checksum = write_npy(out, leaf, read)
        return lambda path, found: check_npy(path, leaf, checksum, found)
    form = _FORMS.get(kind, "npz" if kind is Format.NPY else "pt")
    return write(form, out, value, flatten(value, plain), plain, read)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_STEP):
            yield piece
