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
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from safemodel._protect.keys import KeyProvider, ProtectionKey

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"([0-9]{1,10})([smhdw])", re.ASCII)
_MAX_EPOCH = (1 << 63) - 1


def add_key(
    parser: argparse.ArgumentParser, *, several: bool = False, required: bool = True
) -> None:
    """Declare where the key comes from.

    Args:
        parser: The parser of a verb.
        several: Whether the verb takes whichever of several keys a file names.
        required: Whether nothing else will do.
    """
    more = "; several times: whichever key SRC names" if several else ""
    where = parser.add_mutually_exclusive_group(required=required)
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


def add_public_key(parser: argparse.ArgumentParser) -> None:
    """Declare who has to have signed."""
    parser.add_argument(
        "--public-key",
        metavar="FILE",
        help="the Ed25519 key (PEM, or 32 bytes) that has to have signed SRC",
    )


def add_new_key(parser: argparse.ArgumentParser) -> None:
    """Declare where another key comes from."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--new-key", metavar="FILE", help="the key file of the key to go over to"
    )
    where.add_argument(
        "--new-key-env",
        metavar="NAME",
        help="the environment variable that holds the line of its key file",
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


def one_key_of(options: argparse.Namespace) -> ProtectionKey:
    """Return the key to protect with; raises as `key_of`.

    Raises:
        ValueError: There are several.
    """
    from safemodel._protect.keys import ProtectionKey

    key = key_of(options)
    if not isinstance(key, ProtectionKey):
        raise ValueError("a file is protected with one key")  # noqa: TRY004 - of the user
    return key


def new_key_of(options: argparse.Namespace) -> ProtectionKey | None:
    """Return the key to go over to; None to keep the old one. Raises as `key_of`."""
    from safemodel._protect.keys import ProtectionKey

    if options.new_key_env is not None:
        return ProtectionKey.from_env(options.new_key_env)
    if options.new_key is None:
        return None
    return ProtectionKey.from_file(options.new_key, shared=options.shared_key)


def signer_of(options: argparse.Namespace) -> Ed25519PrivateKey | None:
    """Return the key to sign with; None for no signature.

    Raises:
        KeyFormatError: What is there is not such a key, or others may use it.
        OSError: The file cannot be read.
    """
    from safemodel._protect.signing import read_signing_key

    if options.sign is None:
        return None
    return read_signing_key(options.sign, shared=options.shared_key)


def public_key_of(options: argparse.Namespace) -> bytes | None:
    """Return the key that has to have signed; None for no matter who.

    Raises:
        KeyFormatError: What is there is not such a key.
        OSError: The file cannot be read.
    """
    from safemodel._protect.signing import read_public_key

    return None if options.public_key is None else read_public_key(options.public_key)


def add_signing(parser: argparse.ArgumentParser) -> None:
    """Declare who signs."""
    parser.add_argument(
        "--sign",
        metavar="FILE",
        help="sign with this Ed25519 key (PEM, or 32 bytes), for readers without a key",
    )


def add_unsigned(parser: argparse.ArgumentParser) -> None:
    """Declare that a signature may be lost."""
    parser.add_argument(
        "--unsigned",
        action="store_true",
        help="let a file that is signed become one that is not",
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
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="refuse a version below the highest epoch that FILE remembers of it, and"
        " remember this one",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare what becomes of the file that is written, and what is printed."""
    parser.add_argument(
        "-f",
        "--overwrite",
        action="store_true",
        help="replace DST if it is there; never a folder",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def epoch(text: str) -> int:
    """Return an epoch; argparse reports anything else."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= 20
    if not is_number or int(text) > _MAX_EPOCH:
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


def moment_or_never(text: str) -> int:
    """Return when something expires, or 0 for never."""
    return 0 if text == "never" else moment(text)


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
