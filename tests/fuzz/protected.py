"""The tampering loop: every change of a protected file is refused, and says no secret.

    python -m tests.fuzz.protected --count 20000 --seed 1 [--jobs 2] [--out FOLDER]

Each mutant (`tamper`) is read by `verify`, `safe_load`, `restore` and `rotate`, with
the key, in child processes. A failure is: that one of them accepts it, that they raise
different errors, an error of somebody else or of a kind that says something wrong, a
key or plain data in the error or in the local variables of its traceback, a file left
behind, a crash, ten seconds of a processor, a GiB of memory. Exits 1 if there was one.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import shutil
import struct
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from safemodel import (
    KeyRequiredError,
    LimitExceededError,
    SafeModelError,
    UnsupportedFormatError,
    VerificationError,
    restore,
    rotate,
    safe_load,
    verify,
)
from safemodel._containers.source import open_source
from safemodel._protect.frames import find_seal
from safemodel._protect.keys import ProtectionKey
from safemodel.limits import DEFAULT_LIMITS
from tests.fuzz.protected_files import (
    EPOCH,
    KEY,
    MARK,
    NAME,
    NOTE,
    SECRET,
    build_protected,
)
from tests.fuzz.run import Target, main
from tests.fuzz.tamper import tampered
from tests.unit.protect.helpers_protect import PUBLIC, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.fuzz.protected_files import Seed
    from tests.fuzz.tamper import Tampered

MEMORY_BYTES = 1 << 30
_OLD = b"what was there before"
_PUBLIC_LABELS = ("key id", "salt")
_MARKS = {"value": struct.pack("<q", MARK), "text": NOTE.encode()}
_CAUSES = {
    # field of the seal's header: bytes of it, and what it may end in
    UnsupportedFormatError: ((8, 10),),
    KeyRequiredError: ((12, 28),),
    LimitExceededError: ((84, 92),),
}


class Derived:
    """Every key that was derived from the protection key, as a text would show it."""

    def __init__(self) -> None:
        self.forms = {form for part in _halves(SECRET) for form in _forms(part)}
        self._kept = ProtectionKey._derive

    @contextlib.contextmanager
    def noted(self) -> Iterator[Derived]:
        """Note keys for as long as it lasts."""
        kept = self._kept

        def derive(key: ProtectionKey, label: str, *args: Any, **how: Any) -> bytes:
            made = kept(key, label, *args, **how)
            if label not in _PUBLIC_LABELS:
                secret = made[:32] if label == "seal" else made
                for part in _halves(secret):
                    self.forms.update(_forms(part))
            return made

        ProtectionKey._derive = derive
        try:
            yield self
        finally:
            ProtectionKey._derive = kept

    def within(self, text: str) -> bool:
        """Return whether a text shows one."""
        return any(form in text for form in self.forms)


_NUMBER = str(MARK)


def _halves(secret: bytes) -> list[bytes]:
    return [secret[: len(secret) // 2], secret[len(secret) // 2 :]]


def _forms(part: bytes) -> list[str]:
    return [part.hex(), repr(part)[2:-1], repr(bytearray(part))[12:-2],
            repr(list(part))[1:-1]]  # fmt: skip


def try_tampered(one: Tampered, folder: Path, rand: random.Random) -> str:
    """Return what is wrong with how a mutant is read; "" if nothing is."""
    # Of each file the newest epoch was seen before.
    since: dict[str, Any] = {"min_epoch": EPOCH}
    if one.by_state:
        since = {"state": folder / "state"}
    signed = {"public_key": PUBLIC} if one.seed.signed else {}
    out = folder / "out" / f"out.{one.seed.kind}"

    def f() -> io.BytesIO:  # of which a traceback does not show what is in it
        return io.BytesIO(one.content)

    verbs: dict[str, Callable[[], object]] = {
        "verify": lambda: verify(f(), key=KEY, **signed, **since),
        "safe_load": lambda: safe_load(f(), key=KEY, **since),
        "restore": lambda: restore(
            f(), out, key=KEY, overwrite=True, **signed, **since
        ),
        "rotate": lambda: rotate(
            f(), out, key=KEY, overwrite=True, unsigned=True, **signed, **since
        ),
    }
    if one.way == "signer_gone":  # which safe_load is not asked about
        del verbs["safe_load"]
    # The signer has signed that file, too, and says no more.
    if signed and one.way != "file_of_another_key":
        verbs["verify by signature"] = lambda: verify(f(), public_key=PUBLIC, **since)
    big = len(one.content) > 1 << 20
    chosen = ["verify", rand.choice(list(verbs)[1:])] if big else list(verbs)
    errors = {}
    for name in chosen:
        (folder / "out").mkdir()
        there = rand.random() < 0.5
        if there:
            out.write_bytes(_OLD)
        problem, error = refusal_of(verbs[name], one.content)
        if error is not None and type(error) not in _expected(one):
            problem = f"{type(error).__name__}: {error}"
        left = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
        shutil.rmtree(folder / "out")
        if problem:
            return f"{one.way}, {one.seed.name}, {name}: {problem}"
        if left != ({out.name: _OLD} if there else {}):
            return f"{one.way}, {one.seed.name}, {name}: left {sorted(left)}"
        if name != "verify by signature" and not (signed and name == "safe_load"):
            errors[name] = (type(error).__name__, str(error))
    if len(set(errors.values())) > 1:
        return f"{one.way}, {one.seed.name}: two answers: {errors}"
    return _without_key(one)


def refusal_of(
    call: Callable[[], object], shown: bytes
) -> tuple[str, SafeModelError | None]:
    """Return what is wrong with how a call refuses, and the error.

    Args:
        call: What has to raise one of our errors.
        shown: What it reads: of that, an error may have what everyone sees.
    """
    derived = Derived()
    try:
        with derived.noted():
            call()
    except SafeModelError as error:
        text = text_of(error)
        if derived.within(text):
            return "the error shows a key", error
        for name, value in _MARKS.items():
            if value not in shown and any(form in text for form in _forms(value)):
                return f"the error shows plain data: {name}", error
        # The names of what has changed are what it is there to say.
        rest = text
        for name in sorted(getattr(error, "tensors", ()), key=len, reverse=True):
            rest = rest.replace(name, "")
        if NAME.encode() not in shown and (found := re.search(rf"{NAME}[\w.-]*", rest)):
            return f"the error shows a name: {found[0]}", error
        return "", error
    # Anything else that escapes is what this loop looks for.
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return "".join(traceback.format_exception(error)[-4:]), None
    return "accepted", None


def _expected(one: Tampered) -> set[type[SafeModelError]]:
    """Return what a mutant may end in: what its seal says of itself now."""
    allowed: set[type[SafeModelError]] = {VerificationError}
    try:
        found = find_seal(open_source(one.content), DEFAULT_LIMITS)
    except LimitExceededError:
        return {LimitExceededError}
    except VerificationError:
        return allowed
    if found is None:
        return allowed
    for kind, fields in _CAUSES.items():
        for start, end in fields:
            if found.data[start:end] != one.seed.seal[start:end]:
                allowed.add(kind)
    return allowed


def _without_key(one: Tampered) -> str:
    """Return what is wrong with how a mutant loads without the key.

    Whoever takes the seal away has made a file like any other; that it is refused
    cannot be promised, but that it does no harm.
    """
    try:
        safe_load(one.content)
    except SafeModelError as error:
        if NOTE in str(error):
            return f"{one.way}, {one.seed.name}: without a key, plain data is shown"
    # As above.
    except Exception as error:  # noqa: BLE001
        where = "".join(traceback.format_exception(error)[-4:])
        return f"{one.way}, {one.seed.name}: without a key: {where}"
    return ""


_FOLDERS: dict[int, Path] = {}
_ROOT = tempfile.TemporaryDirectory(prefix="safemodel-tamper-")


def _folder(seeds: Sequence[Seed]) -> Path:
    """Return a folder of this process, with a state that has seen every file."""
    if os.getpid() not in _FOLDERS:
        folder = Path(tempfile.mkdtemp(dir=_ROOT.name))
        _FOLDERS[os.getpid()] = folder
        (folder / "out").mkdir()
        for seed in seeds:
            verify(seed.content, key=KEY, state=folder / "state", min_epoch=EPOCH)
        shutil.rmtree(folder / "out")
        # What is left in it by mistake is to be seen.
        tempfile.tempdir = str(folder / "out")
    return _FOLDERS[os.getpid()]


def attempt(seeds: Sequence[Seed], seed: int, index: int) -> str:
    """Return what is wrong with how a mutant is read; "" if nothing is."""
    rand = random.Random(f"{seed}:{index}:how")  # noqa: S311 - repeatable, not secret
    one = tampered(list(seeds), seed, index)
    return try_tampered(one, _folder(seeds), rand)


PROTECTED = Target(
    build_protected,
    lambda seeds, seed, index: tampered(list(seeds), seed, index).content,
    attempt,
    MEMORY_BYTES,
)


if __name__ == "__main__":
    sys.exit(main(PROTECTED, __doc__))
