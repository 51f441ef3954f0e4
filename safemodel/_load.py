"""`safe_load`: the pipeline in order, and nothing else.

bytes → records → inert nodes → checked graph → tensors. Nothing the file names is
imported, looked up or called; no step hands the file's bytes to anyone else's parser.
"""

from __future__ import annotations

import codecs
import os
from typing import TYPE_CHECKING, Any, Literal

from safemodel._collector import collector_paused
from safemodel.limits import DEFAULT_LIMITS
from safemodel.policy import SALVAGE, STRICT, Policy

if TYPE_CHECKING:
    from safemodel._types import FileLike, MapLocation
    from safemodel.limits import Limits


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
        **pickle_load_args: ``encoding`` and ``errors`` for strings of Python 2, as in
            `pickle.load`; ``fix_imports`` is accepted and always on.

    Returns:
        What the file holds: tensors, arrays and the plain data around them.

    Raises:
        UnsafeFileError: The file asks for something that is not allowed.
        MalformedFileError: It is not a well-formed file.
        UnsupportedFormatError: It is something else; the message says what.
        OSError: It cannot be opened or read.
        TypeError: An argument is of the wrong type.
        ValueError: ``mmap=True`` without a path.
    """
    from safemodel._build.objects import build
    from safemodel._containers.source import open_source
    from safemodel._formats.formats import read_file

    del pickle_module
    encoding, errors = _text_arguments(pickle_load_args)
    if verify_checksums not in (True, False, "all"):
        raise TypeError("verify_checksums is True, False or 'all'")
    if mmap and not isinstance(f, (str, os.PathLike)):
        raise ValueError("mmap=True needs the path of a file")
    limits = DEFAULT_LIMITS if limits is None else limits
    with collector_paused(), open_source(f) as source:
        graph, reading = read_file(
            source,
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
            source.finish(reading.consumed)
        finally:
            reading.close()
    return result


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
