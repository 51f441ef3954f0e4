"""What is asked of a patched process, and which of several demands counts.

Rules:

1. Each `patch()` and each `with patched():` puts its settings on one pile; names are
   replaced while there are any.
2. Code under a `with patched():` of its own thread has the settings of that block;
   all other code has those put there last.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from safemodel._value import Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from safemodel._patch.journal import OpenedFile
    from safemodel.policy import Policy


class Settings(Value):
    """How files are opened while names are replaced.

    Attributes:
        policy: Which globals are allowed.
        audit: Called with each file that was opened, or None.
        torchscript: What TorchScript archives give: an error, or their tensors.
        pickle_in: Modules in which `pickle` is replaced.
    """

    policy: Policy
    audit: Callable[[OpenedFile], None] | None
    torchscript: Literal["refuse", "tensors"]
    pickle_in: tuple[str, ...]


class Entry:
    """Settings on the pile: two of the same settings are two entries.

    Attributes:
        settings: What is asked.
        of_block: Whether a `with` block is to take them away, and no `unpatch()`.
    """

    __slots__ = ("of_block", "settings")

    def __init__(self, settings: Settings, *, of_block: bool = False) -> None:
        self.settings = settings
        self.of_block = of_block


PILE: list[Entry] = []
"""Changed under the lock of `switch` only, and always as a whole: readers take none."""
OWN: ContextVar[tuple[Entry, ...]] = ContextVar("safemodel_patched", default=())
"""Entries of the `with` blocks around the code of this thread, the innermost last."""


def current() -> Settings | None:
    """Return the settings that count here; None if nothing is replaced."""
    pile = list(PILE)
    for entry in reversed(OWN.get()):
        if entry in pile:
            return entry.settings
    return pile[-1].settings if pile else None


def default_settings() -> Settings:
    """Return the settings of `safemodel.patch()` without arguments."""
    from safemodel.policy import STRICT

    return Settings(policy=STRICT, audit=None, torchscript="refuse", pickle_in=())


def settings_of(
    policy: Policy,
    on_refuse: str,
    audit: Callable[[OpenedFile], None] | None,
    torchscript: Literal["refuse", "tensors"],
    pickle_in: Iterable[str],
) -> Settings:
    """Return settings from the arguments of `safemodel.patch`, checked.

    Raises:
        TypeError: As `safemodel.patch` says.
        ValueError: The same.
    """
    from safemodel.policy import Policy

    if not isinstance(policy, Policy):
        raise TypeError("policy is a safemodel.Policy")
    if on_refuse not in ("raise", "opaque"):
        raise ValueError("on_refuse is 'raise' or 'opaque'")
    if torchscript not in ("refuse", "tensors"):
        raise ValueError("torchscript is 'refuse' or 'tensors'")
    if isinstance(pickle_in, str):
        raise TypeError("pickle_in is a list of names of modules")
    if on_refuse == "opaque":
        policy = Policy(others="opaque", extra=policy.extra)
    return Settings(
        policy=policy, audit=audit, torchscript=torchscript, pickle_in=tuple(pickle_in)
    )
