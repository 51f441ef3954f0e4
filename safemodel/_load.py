"""`safe_load`: the pipeline in order, and nothing else.

bytes → records → inert nodes → checked graph → tensors. Nothing the file names is
imported, looked up or called; no step hands the file's bytes to anyone else's parser.
"""

from __future__ import annotations

import codecs
import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from safemodel._collector import collector_paused
from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import SALVAGE, STRICT, Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safemodel._containers.source import Source
    from safemodel._protect.keys import KeyProvider, ProtectionKey
    from safemodel._protect.verifying import Trust
    from safemodel._types import FileLike, MapLocation, StrPath
    from safemodel.limits import Limits


NOTED: ContextVar[list[str] | None] = ContextVar("safemodel_noted", default=None)
"""Where legacy mode wants the names of globals that became `Opaque` values."""


def safe_load(
    f: FileLike,
    map_location: MapLocation = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    policy: Policy | None = None,
    limits: Limits | None = None,
    verify_checksums: bool | Literal["all"] = True,
    key: ProtectionKey | KeyProvider | None = None,
    min_epoch: int = 0,
    state: StrPath | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Load a model file without running anything in it.

    Takes every call that `torch.load` takes, with the same meaning, except that
    nothing is ever executed.

    Args:
        f: A path, bytes, or a binary file object. A seekable file object is read from
            where it stands and left behind what was read, after an error where it was.
        map_location: As in `torch.load`.
        pickle_module: Accepted so that a rename is enough; never used.
        weights_only: None or True refuses globals outside the allowlist. False never
            executes either: it puts an inert `Opaque` in their place.
        mmap: Tensors over a private map of the file (``f`` must be a path). Changing
            the file meanwhile changes or breaks such tensors; the default copies.
        policy: Which globals are allowed; overrides ``weights_only=True``.
        limits: How much the file may ask for.
        verify_checksums: Compare the CRC-32 of every record read with the archive's.
            With ``mmap=True`` that is the pickle's record only; "all" insists.
        key: The key of a protected file, or where keys come from. The file is verified
            and restored in memory, and then loaded as any other. With a key, a file
            that is not protected is refused, and ``f`` may be the path of a protected
            folder.
        min_epoch: The lowest epoch of a protected file to accept.
        state: A file that remembers the highest epoch that was seen of each protected
            file; an older one is refused.
        **pickle_load_args: ``encoding`` and ``errors`` for strings of Python 2, as in
            `pickle.load`; ``fix_imports`` is accepted and always on.

    Returns:
        What the file holds: tensors, arrays and the plain data around them.

    Raises:
        UnsafeFileError: The file asks for something that is not allowed.
        MalformedFileError: It is not a well-formed file.
        UnsupportedFormatError: It is something else; the message says what.
        KeyRequiredError: It is protected, and the key is not there or another one.
        VerificationError: ``key`` is given, and the file was changed, is too old, has
            expired or is not protected.
        OSError: It cannot be opened or read.
        TypeError: An argument is of the wrong type.
        ValueError: ``mmap=True`` without a path, or with ``key``.
    """
    from safemodel._build.objects import build
    from safemodel._formats.formats import read_file

    del pickle_module
    encoding, errors = _text_arguments(pickle_load_args)
    if verify_checksums not in (True, False, "all"):
        raise TypeError("verify_checksums is True, False or 'all'")
    if mmap and (key is not None or not isinstance(f, (str, os.PathLike))):
        raise ValueError("mmap=True needs the path of a file, and takes no key")
    if key is None and (min_epoch or state is not None):
        raise ValueError("min_epoch and state are for protected files: give a key")
    limits = DEFAULT_LIMITS if limits is None else limits
    trust = key, min_epoch, state
    with collector_paused(), _opened(f, trust, limits) as (source, plain):
        graph, reading = read_file(
            plain,
            policy=_choose(policy, weights_only),
            limits=limits,
            verify=bool(verify_checksums),
            encoding=encoding,
            errors=errors,
        )
        try:
            result = build(
                graph,
                map_location=map_location,
                mmap=bool(mmap),
                verify=verify_checksums == "all"
                or (bool(verify_checksums) and not mmap),
                limits=limits,
            )
            source.finish(reading.consumed if plain is source else source.size)
        finally:
            reading.close()
    noted = NOTED.get()
    if noted is not None:
        noted.extend(graph.opaque)
    return result


@contextmanager
def _opened(
    f: FileLike,
    trust: tuple[ProtectionKey | KeyProvider | None, int, StrPath | None],
    limits: Limits,
) -> Iterator[tuple[Source, Source]]:
    """Open a file; give it, and what is loaded of it.

    That is another one if it is protected: what it was, once it is verified.
    """
    from safemodel._containers.source import open_source

    if trust[0] is not None:
        from safemodel._protect.verifying import trust_in

        keys, min_epoch, state = trust
        given = trust_in(keys, min_epoch=min_epoch, state=state, limits=limits)
        if isinstance(f, (str, os.PathLike)) and os.path.isdir(f):  # noqa: PTH112 - pathlib costs start-up time
            from pathlib import Path

            from safemodel._protect.folder_load import folder_in_memory

            plain = folder_in_memory(Path(f), given)
            yield plain, plain
            return
        with open_source(f) as source:
            yield source, _restored(source, given)
        return
    if isinstance(f, (str, os.PathLike)):
        _check_no_folder(f, limits)
    with open_source(f) as source:
        from safemodel._protect.frames import find_seal

        if find_seal(source, limits) is not None:
            from safemodel._protect.verifying import key_needed

            raise key_needed(source, limits)
        yield source, source


def _check_no_folder(path: StrPath, limits: Limits) -> None:
    """Raise if a path is that of a protected folder; others are no files, either.

    Raises:
        KeyRequiredError: It is.
    """
    from safemodel._formats.protected import SEAL_NAME

    if os.path.isfile(os.path.join(path, SEAL_NAME)):  # noqa: PTH113, PTH118 - pathlib costs start-up time
        from pathlib import Path

        from safemodel._protect.folder_opening import open_folder
        from safemodel._protect.verifying import trust_in

        open_folder(Path(path), trust_in(None, limits=limits))


def _restored(source: Source, trust: Trust) -> Source:
    """Return what was protected, in memory."""
    from safemodel._protect.restoring import restore_in_memory
    from safemodel._protect.verifying import open_trusted, remember

    opened = open_trusted(source, trust)
    plain = restore_in_memory(opened, trust.limits)
    remember(trust, opened.manifest.file_id, opened.manifest.epoch)
    return plain


def _choose(policy: Policy | None, weights_only: bool | None) -> Policy:
    """Return the policy that the arguments mean together."""
    if weights_only not in (None, True, False):
        raise TypeError("weights_only is None, True or False")
    if policy is None:
        return SALVAGE if weights_only is False else STRICT
    if weights_only is False:
        return Policy(others="opaque", extra=policy.extra)
    return policy


def _text_arguments(arguments: dict[str, Any]) -> tuple[str, str]:
    """Return encoding and error handler; refuse what `pickle.load` does not take."""
    unknown = arguments.keys() - {"encoding", "errors", "fix_imports"}
    if unknown:
        raise TypeError(f"unexpected keyword arguments: {', '.join(sorted(unknown))}")
    encoding = arguments.get("encoding", "utf-8")
    errors = arguments.get("errors", "strict")
    if encoding != "bytes":
        codecs.lookup(encoding)
    codecs.lookup_error(errors)
    return encoding, errors
