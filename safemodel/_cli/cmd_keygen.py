"""``safemodel keygen``: a new key of protected files, or one to sign them with."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from safemodel._protect.keys import ProtectionKey

_CANNOT = 2
_MOST_TYPED = 4096

_EPILOG = """\
exit codes:
  0  the key is written; its id, or the public key, is printed
  2  it could not be: FILE is there, the passphrase is another one, or the like
"""


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb's arguments."""
    parser = verbs.add_parser(
        "keygen",
        help="make a key to protect files with, or to sign them",
        description="Write a new key, for the user alone to read, and print its id."
        " Whoever has the key can undo the protection and forge it; without it, nobody"
        " can restore what was protected with it: keep a copy in a safe place.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "out", metavar="FILE", help="the key file to write; never replaced"
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--passphrase",
        metavar="SALT",
        help="make the key from a passphrase, which is asked for (or is the first line"
        " of standard input), and the salt in the file SALT, which is made if it is not"
        " there",
    )
    kind.add_argument(
        "--signing",
        action="store_true",
        help="make an Ed25519 key for --sign; FILE.pub is for those who verify",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write a key; return the exit code."""
    from safemodel._cli.interrupts import ends_clean
    from safemodel._report.words import shown
    from safemodel.errors import KeyFormatError

    try:
        with ends_clean():
            said = _signing(options.out) if options.signing else _protecting(options)
    except (KeyFormatError, OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
        sys.stderr.write(f"safemodel: {shown(reason)}\n")
        return _CANNOT
    if options.json:
        import json

        sys.stdout.write(json.dumps(said) + "\n")
    else:
        # The last is what is asked for later: the id, or the public key.
        sys.stdout.write(f"{list(said.values())[-1]}\n")
    return 0


def _signing(out: str) -> dict[str, str]:
    """Write a pair of keys to sign with; return what to say of it."""
    from safemodel._protect.signing import write_signing_key

    public = f"{out}.pub"
    key = write_signing_key(out, public)
    return {"file": out, "public_file": public, "public_key": key.hex()}


def _protecting(options: argparse.Namespace) -> dict[str, str]:
    """Write a key to protect with; return what to say of it."""
    from safemodel._protect.keys import ProtectionKey

    if os.path.lexists(options.out):
        # Before anybody types a passphrase.
        raise FileExistsError(17, "File exists", options.out)
    if options.passphrase is None:
        key = ProtectionKey.generate()
    elif os.path.realpath(options.passphrase) == os.path.realpath(options.out):
        raise ValueError("the salt and the key are two files")
    else:
        key = _typed(options.passphrase)
    key.to_file(options.out)
    return {"file": options.out, "key_id": key.id}


def _typed(salt: str) -> ProtectionKey:
    """Return the key of a passphrase that is typed in."""
    from safemodel._protect.salts import new_key, same_key

    if os.path.lexists(salt):
        return same_key(_passphrase("Passphrase: "), salt)
    typed = _passphrase("New passphrase: ")
    if sys.stdin.isatty() and _passphrase("Once more: ") != typed:
        raise ValueError("the passphrases are not the same")
    return new_key(typed, salt)


def _passphrase(prompt: str) -> str:
    """Return a passphrase from the terminal, or the first line of standard input."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass(prompt)
    try:
        return sys.stdin.readline(_MOST_TYPED).rstrip("\r\n")
    except UnicodeError:
        # That error holds the passphrase.
        raise ValueError("the passphrase is not Unicode text") from None
