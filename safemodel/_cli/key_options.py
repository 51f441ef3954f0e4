"""Options that the verbs of protected files share: keys, epochs, times.

A key is named, never given: what stands in a command line can be seen by every user of
the machine, and stays in the history of the shell.
"""

from __future__ import annotations

import argparse
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safemodel._protect.keys import KeyProvider, ProtectionKey

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,10})([smhdw])", re.ASCII)
_MAX_EPOCH = (1 << 63) - 1


def add_key(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declare where the key comes from.

    Args:
        parser: The parser of a verb.
        several: Whether the verb takes whichever of several keys a file names.
    """
    more = "; several times: whichever key SRC names" if several else ""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--key",
        metavar="FILE",
        action="append",
        help=f"the key file, made by keygen{more}",
    )
    where.add_argument(
        "--key-env",
        metavar="NAME",
        help="the environment variable that holds the line of a key file",
    )
    parser.add_argument(
        "--shared-key",
        action="store_true",
        help="accept a key file that others may read, as one mounted into a container",
    )


def key_of(options: argparse.Namespace) -> ProtectionKey | KeyProvider:
    """Return the key, or where keys come from if several files are given.

    Raises:
        KeyFormatError: What is there is not a key, or others may use it.
        KeyRequiredError: The environment variable is not set.
        OSError: A file cannot be read.
    """
    from safemodel._protect.keys import KeyRing, ProtectionKey

    if options.key is None:
        return ProtectionKey.from_env(options.key_env)
    keys = [
        ProtectionKey.from_file(path, shared=options.shared_key) for path in options.key
    ]
    return keys[0] if len(keys) == 1 else KeyRing(keys)


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Declare who signs."""
    parser.add_argument(
        "--sign",
        metavar="FILE",
        help="sign with this Ed25519 key (PEM, or 32 bytes), for readers without a key",
    )


def add_freshness(parser: argparse.ArgumentParser) -> None:
    """Declare what is too old to be believed."""
    parser.add_argument(
        "--min-epoch",
        type=epoch,
        default=0,
        metavar="N",
        help="refuse a version below this epoch",
    )
    add_state(parser, "refuse a version below the highest epoch in this file, which")


def add_state(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare where the highest epochs are remembered."""
    parser.add_argument(
        "--state",
        metavar="FILE",
        help=f"{what} remembers the highest epoch that was seen of each file",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare what becomes of the file that is written, and what is printed."""
    parser.add_argument(
        "-f", "--overwrite", action="store_true", help="replace DST if it is there"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def epoch(text: str) -> int:
    """Return an epoch; argparse reports anything else."""
    if not (text.isascii() and text.isdecimal() and int(text[:20]) <= _MAX_EPOCH):
        raise argparse.ArgumentTypeError(f"not an epoch: {text!r}")
    return int(text)


def moment(text: str) -> int:
    """Return when something expires, in seconds since 1970; argparse reports the rest.

    Args:
        text: A duration from now (``90d``), a date, or a date and a time; UTC, unless
            it says otherwise.
    """
    found = _DURATION.fullmatch(text)
    now = int(time.time())
    at = now + int(found[1]) * _UNITS[found[2]] if found else _seconds(text)
    if at <= now:
        raise argparse.ArgumentTypeError(f"not in the future: {text!r}")
    return at


def _seconds(text: str) -> int:
    """Return a date in seconds since 1970."""
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(text)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return int(at.timestamp())
    except (ValueError, OverflowError):
        expected = "a duration (30m, 12h, 90d, 2w) or a date (2027-01-31)"
        raise argparse.ArgumentTypeError(f"not {expected}: {text!r}") from None
