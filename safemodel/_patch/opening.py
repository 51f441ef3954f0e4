"""Open a file in the place of somebody else's loader.

Rules:

1. Whatever the code asks for, nothing the file says is run: arguments that asked for
   it mean `Opaque` values, with one warning for a line of code.
2. Each file is written down, if that was asked for, before the caller goes on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from safemodel._load import NOTED, safe_load
from safemodel._patch.call_sites import call_site, warn_once
from safemodel._patch.journal import LOG_VARIABLE, digest_of, opened_file, write_line
from safemodel._patch.settings import current
from safemodel._patch.wall import behind_wall
from safemodel.policy import STRICT

if TYPE_CHECKING:
    from collections.abc import Callable

    from safemodel._types import MapLocation
    from safemodel.policy import Policy


def load(
    f: Any,
    map_location: MapLocation = None,
    pickle_module: Any = None,
    *,
    weights_only: bool | None = None,
    mmap: bool | None = None,
    **pickle_load_args: Any,
) -> Any:
    """Load a model file as `torch.load` would be asked to, and run nothing in it.

    This stands in the place of `torch.load` until `safemodel.unpatch()`. Arguments are
    those of `torch.load`; see `safemodel.safe_load` for what they mean.

    Raises:
        SafeModelError: The file is refused, malformed or not supported.
        OSError: It cannot be opened or read.
    """
    if weights_only is False:
        warn_once(
            "weights_only=False does not run anything here: what it would have made"
            " comes back as inert Opaque values (safemodel.patch)"
        )
    if pickle_module is not None:
        warn_once(
            "pickle_module is not used here: nothing is unpickled (safemodel.patch)"
        )
    return watched(
        "torch.load",
        f,
        lambda: safe_load(
            f, map_location, weights_only=weights_only, mmap=mmap,
            policy=_policy(weights_only), **pickle_load_args,
        ),
    )  # fmt: skip


def load_other(
    call: str,
    f: Any,
    *,
    opened: Callable[[Any], Any] | None = None,
    **arguments: Any,
) -> Any:
    """Load what another library's loader was asked for, as plain data.

    Args:
        call: Name of that loader.
        f: What it was given.
        opened: What makes of that a file which `safe_load` reads.
        **arguments: For `safe_load`.
    """

    def loading() -> Any:
        given = f if opened is None else opened(f)
        return safe_load(given, policy=_policy(None), **arguments)

    return watched(call, f, loading)


def watched(call: str, f: object, loading: Callable[[], Any]) -> Any:
    """Run what loads a file, and write down how it ended."""
    settings = current()
    log = os.environ.get(LOG_VARIABLE, "")
    audit = None if settings is None else settings.audit
    if audit is None and not log:
        with behind_wall():
            return loading()
    digest, where = digest_of(f), call_site()
    opaque: list[str] = []

    def write_down(failure: BaseException | None) -> None:
        opened = opened_file(call, f, digest, failure, where, opaque)
        if log:
            write_line(log, opened)
        if audit is not None:
            audit(opened)

    token = NOTED.set(opaque)
    try:
        with behind_wall():
            result = loading()
    # Also what ends programs: the file was opened all the same.
    except BaseException as failure:
        write_down(failure)
        raise
    finally:
        NOTED.reset(token)
    write_down(None)
    return result


def _policy(weights_only: bool | None) -> Policy | None:
    """Return the policy that counts for a call."""
    settings = current()
    policy = STRICT if settings is None else settings.policy
    # None: what `weights_only` alone means.
    return None if weights_only is False and policy == STRICT else policy
