"""Write docs/tamper-matrix.md: what is raised for each change of a protected file.

Run it from anywhere: ``python tools/tamper_matrix.py`` (a few seconds). The changes are
those of ``tests/fuzz/tamper.py``, each made in several places of a file of each format
in each mode. A test compares the page with what this gives.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch

from safemodel import SafeModelError, VerificationError, verify
from safemodel._containers.source import open_source
from safemodel._protect.opening import Opened, open_protected
from safemodel._protect.restoring import restore_pool_to
from safemodel._protect.scratch import Scratch
from safemodel.limits import DEFAULT_LIMITS
from tests.fuzz import protected_folders, tamper
from tests.fuzz.protected_files import (
    EPOCH,
    KEY,
    KINDS,
    family,
    repeatable,
    warm_up,
)
from tests.unit.protect.helpers_protect import PUBLIC

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fuzz.protected_files import Seed

PAGE = ROOT / "docs" / "tamper-matrix.md"
DRAWS = 12
_GROUPS = {
    "Bits and bytes, wherever they are": "flip_anywhere flip_in_frame flip_in_seal"
    " flip_behind_seal overwrite truncate extend prepend insert delete",
    "Tensors": "flip_in_tensor swap_in_pool swap_between_pools repeat_piece"
    " piece_of_relative zero_tensor zip_tensor",
    "The seal": "sealed_text_changed seal_longer_or_shorter seal_lengths_huge"
    " seal_of_relative tensors_of_relative seal_taken_away text_of_seal",
    "The signature, to readers who bring the public key": "signature_changed"
    " signature_taken_away signed_by_another signer_gone",
    "Whole files in its place": "replay file_of_another_key plain_file",
    "The header of a safetensors file": "header_spaces header_order header_duplicate"
    " header_value header_length",
    "The records of a torch archive": "zip_checksum zip_pickle zip_second_record"
    " zip_comment zip_second_archive zip_directory zip_anew zip_flags",
}
_FIELDS_GROUP = "The fields of the seal's header"
_IN_FIELDS = "version_lowered version_raised mode_changed epoch_raised expiry_moved"
_ELSEWHERE = {"seal_field_changed", "swap_chunks"}
"""The fields have a table of their own; whole chunks are those of larger files."""

_HEAD = """\
# The tamper matrix

What `verify` raises for each change that somebody without the key can make to a
protected file, by format and mode; `safe_load`, `restore` and `rotate` raise the same,
and write nothing. *Names* is said where the error names the tensors whose bytes have
changed, and no others. A dash is where the change is of the other format.

`tools/tamper_matrix.py` writes this page: it makes each change in {draws} places of a
file of each column (torch {torch}), with an epoch to accept at least. A test makes
them again. `make tamper` makes 20,000 at random, and looks at more than the error.
[Protect](protect.md) says what is checked, and in which order.
"""


class Outcome(NamedTuple):
    """How one change ended.

    Attributes:
        error: The class of the error.
        says: What it says, without numbers and names.
        names: Whether it names the tensors that have changed; None if none has.
    """

    error: str
    says: str
    names: bool | None


def seeds() -> dict[str, Seed]:
    """Return the file of each column, signed ones by another name."""
    warm_up()
    with repeatable(6):
        return {
            f"{kind}{', confidential' * confidential}{', signed' * signed}": family(
                kind, confidential=confidential, big=False, signed=signed
            )
            for kind in KINDS
            for confidential in (False, True)
            for signed in (False, True)
        }


def plain_tensors(opened: Opened) -> dict[str, bytes]:
    """Return what a file's tensors are when put in order, without any check."""
    found = {}
    for number, pool in enumerate(opened.manifest.pools):
        room = bytearray(pool.length)

        def write(at: int, view: memoryview, room: bytearray = room) -> None:
            room[at : at + len(view)] = view

        restore_pool_to(
            opened, number, write, scratch=Scratch("."), step=lambda _: None
        )
        for extent in pool.plain:
            end = extent.start + extent.length
            found[extent.name] = bytes(room[extent.start : end])
    return found


def changed_tensors(seed: Seed, content: bytes) -> set[str]:
    """Return which tensors of a file of unchanged layout are others."""
    of = open_protected(open_source(seed.content), KEY, limits=DEFAULT_LIMITS)
    if len(content) != len(seed.content):
        return set()
    now = Opened(open_source(content), KEY, of.manifest, of.contents, of.signer)
    before, after = plain_tensors(of), plain_tensors(now)
    return {name for name, data in before.items() if after[name] != data}


def outcome(seed: Seed, content: bytes) -> Outcome:
    """Return how a change ends.

    Raises:
        AssertionError: It is accepted.
    """
    signed = {"public_key": PUBLIC} if seed.signed else {}
    try:
        verify(content, key=KEY, min_epoch=EPOCH, **signed)
    except SafeModelError as error:
        named = set(getattr(error, "tensors", ()))
        names = named == changed_tensors(seed, content) if named else None
        return Outcome(type(error).__name__, said(error), names)
    raise AssertionError("a change was accepted")


def said(error: SafeModelError) -> str:
    """Return what an error says, without what differs from file to file."""
    says = error.reason if isinstance(error, VerificationError) else str(error)
    says = re.sub(r"@[0-9,]+: ", "", says)
    says = re.sub(r"^\S+(?= (was added|is missing|is a link))", "a file", says)
    says = re.sub(r"[0-9a-f]{32}|[0-9]{4}(-[0-9]{2}){2} [0-9:]{5} UTC", "…", says)
    return re.sub(r"(?<![\w-])(0x[0-9a-f]+|[0-9]+(,[0-9]{3})*)", "…", says)


def of_folder_way(
    way: Callable[..., protected_folders.Files], folder: protected_folders.Folder
) -> list[Outcome]:
    """Return how one kind of change of a folder ends in several places."""
    found = []
    for number in range(DRAWS):
        rand = random.Random(f"{way.__name__}:{number}")  # noqa: S311 - repeatable, not secret
        files = way(rand, folder)
        with tempfile.TemporaryDirectory() as root:
            place = Path(root) / "folder"
            place.mkdir()
            protected_folders.write_files(place, files, folder.files)
            try:
                verify(place, key=KEY, min_epoch=EPOCH)
            except SafeModelError as error:
                names = True if getattr(error, "tensors", ()) else None
                found.append(Outcome(type(error).__name__, said(error), names))
                continue
        raise AssertionError("a change of a folder was accepted")
    return found


def of_way(way: Callable[..., bytes | None], seed: Seed) -> list[Outcome]:
    """Return how one kind of change ends in several places; [] where it is none."""
    found = []
    for number in range(10 * DRAWS):
        rand = random.Random(f"{way.__name__}:{number}")  # noqa: S311 - repeatable, not secret
        content = way(rand, seed)
        if content is not None and content != seed.content:
            found.append(outcome(seed, content))
        if len(found) == DRAWS:
            break
    return found


def cell(outcomes: list[Outcome]) -> str:
    """Return what a cell says of the outcomes of one kind of change."""
    if not outcomes:
        return "–"
    errors = sorted({one.error for one in outcomes})
    text = " or ".join(f"`{error}`" for error in errors)
    if any(one.names is False for one in outcomes):
        raise AssertionError("the wrong tensors were named")
    named = [one.names for one in outcomes]
    return text + (", names" if all(named) else ", may name" if any(named) else "")


def row(text: str, cells: list[list[Outcome]]) -> str:
    """Return a row of a table."""
    says = sorted({one.says for outcomes in cells for one in outcomes})
    shown = "; ".join(says[:3]) + ("; …" if len(says) > 3 else "")
    texts = [cell(outcomes) for outcomes in cells]
    return f"| {text.rstrip('.')} | {' | '.join(texts)} | {shown} |"


def page() -> str:
    """Return the page."""
    files = seeds()
    columns = [name for name in files if not name.endswith("signed")]
    ways = {way.__name__: way for way in tamper.WAYS}
    lines = [_HEAD.format(draws=DRAWS, torch=torch.__version__.split("+")[0])]
    for group, names in _GROUPS.items():
        signed = ", signed" if "signature" in group else ""
        chosen = [files[column + signed] for column in columns]
        lines.append(_table_head(group, columns))
        for name in names.split():
            text = (ways[name].__doc__ or "").splitlines()[0]
            lines.append(row(text, [of_way(ways[name], seed) for seed in chosen]))
    lines.append(_table_head(_FIELDS_GROUP, columns))
    for name in (*_IN_FIELDS.split(), "key_id_changed"):
        text = (ways[name].__doc__ or "").splitlines()[0]
        lines.append(
            row(text, [of_way(ways[name], files[column]) for column in columns])
        )
    for field in tamper.FIELDS:
        cells = [of_way(_field_way(field), files[column]) for column in columns]
        lines.append(row(f"Change the {field}", cells))
    lines += _folder_table()
    shown = " ".join((*_GROUPS.values(), _IN_FIELDS, "key_id_changed")).split()
    if left := ways.keys() - _ELSEWHERE - set(shown):
        raise AssertionError(f"in no table: {left}")
    return "\n".join(lines) + "\n"


def _folder_table() -> list[str]:
    """Return the table of folders."""
    modes = {
        f"folder{', confidential' * mode}": protected_folders.build_folder(
            confidential=mode
        )
        for mode in (False, True)
    }
    lines = [_table_head("Folders", list(modes))]
    for way in dict.fromkeys(protected_folders.FOLDER_WAYS):
        text = (way.__doc__ or "").splitlines()[0]
        cells = [of_folder_way(way, folder) for folder in modes.values()]
        lines.append(row(text, cells))
    return lines


def _table_head(group: str, columns: list[str]) -> str:
    return (
        f"\n## {group}\n\n| change | {' | '.join(columns)} | what it says |\n"
        f"|{'---|' * (len(columns) + 2)}"
    )


def _field_way(field: str) -> Callable[..., bytes]:
    def change(rand: random.Random, seed: Seed) -> bytes:
        return tamper.field_changed(rand, seed, field)

    change.__name__ = field
    return change


def main() -> int:
    """Write the page."""
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
