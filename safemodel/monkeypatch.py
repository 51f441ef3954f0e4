"""Legacy mode: code that has never heard of safemodel opens files as `safe_load` does.

`patch` replaces the loaders of torch, numpy, pandas and joblib, and undoes it exactly:

    import safemodel

    with safemodel.patched():
        model = somebody_elses_code("downloaded.pt")

Rules:

1. Nothing that was replaced runs what a file says, whatever arguments the code gives;
   there is no environment variable that switches this off.
2. Nothing is replaced that programs use for data of their own: not `pickle` itself,
   which worker processes and caches need, but in modules that the caller names.
3. What cannot be reached is refused or listed (`early_references`), never left silent.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from safemodel._patch.journal import OpenedFile
from safemodel.policy import STRICT, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "OpenedFile",
    "early_references",
    "is_patched",
    "patch",
    "patched",
    "unpatch",
]


def patch(
    *,
    policy: Policy = STRICT,
    on_refuse: Literal["raise", "opaque"] = "raise",
    audit: Callable[[OpenedFile], None] | None = None,
    torchscript: Literal["refuse", "tensors"] = "refuse",
    pickle_in: Iterable[str] = (),
) -> None:
    """Replace the loaders of the process until `unpatch`.

    Replaced are `torch.load` (and with it `torch.hub.load_state_dict_from_url`, and
    the weights that `torch.hub.load` fetches), `torch.jit.load`,
    `torch.package.PackageImporter`, `numpy.load` where it unpickles,
    `pandas.read_pickle` and `joblib.load`, also in modules imported later. Calls may be
    nested: each needs an `unpatch` of its own, and the settings of the last one count.

    Args:
        policy: Which globals files may name.
        on_refuse: ``"raise"`` refuses a file with others; ``"opaque"`` puts an inert
            `safemodel.Opaque` in their place.
        audit: Called with an `OpenedFile` for each file, before the code gets it. An
            error that it raises reaches the code. ``SAFEMODEL_LOG=path`` in the
            environment writes the same as lines of JSON.
        torchscript: What `torch.jit.load` does, whose files are programs: refuse, or
            give their tensors and attributes as data.
        pickle_in: Names of modules in which `pickle` (and functions taken from it) is
            to read files as data, too.

    Raises:
        TypeError: ``policy`` is no `Policy`, or ``pickle_in`` is one text.
        ValueError: ``on_refuse`` or ``torchscript`` is none of its values.
    """
    from safemodel._patch.settings import settings_of
    from safemodel._patch.switch import push

    push(settings_of(policy, on_refuse, audit, torchscript, pickle_in))
    _warn_of_early_references()


def unpatch() -> None:
    """Undo the last `patch`; put everything back if nothing else is patched.

    Raises:
        RuntimeError: There is none, or somebody has replaced the same names since. Then
            everything stays patched.
    """
    from safemodel._patch.switch import remove

    remove()


@contextmanager
def patched(
    *,
    policy: Policy = STRICT,
    on_refuse: Literal["raise", "opaque"] = "raise",
    audit: Callable[[OpenedFile], None] | None = None,
    torchscript: Literal["refuse", "tensors"] = "refuse",
    pickle_in: Iterable[str] = (),
) -> Iterator[None]:
    """Replace the loaders of the process while the block runs.

    They are replaced in all threads. The settings are those of the block for the
    thread that runs it; other threads go by their own block, or by the last settings.

    Args:
        policy: As of `patch`.
        on_refuse: As of `patch`.
        audit: As of `patch`.
        torchscript: As of `patch`.
        pickle_in: As of `patch`.

    Raises:
        TypeError: As of `patch`.
        ValueError: As of `patch`.
        RuntimeError: As of `unpatch`, at the end.
    """
    from safemodel._patch.settings import settings_of
    from safemodel._patch.switch import held

    with held(settings_of(policy, on_refuse, audit, torchscript, pickle_in)):
        _warn_of_early_references()
        yield


def is_patched() -> bool:
    """Return whether loaders are replaced now."""
    from safemodel._patch.settings import PILE

    return bool(PILE)


def early_references() -> list[str]:
    """Return where modules hold a loader of torch's that they took too early.

    They refuse when they are called. Those of numpy, pandas and joblib need no list:
    they are reached further in, and read pickles as data.

    Returns:
        Dotted names, sorted; nothing if nothing is patched.
    """
    from safemodel._patch.early import early_references as find
    from safemodel._patch.switch import originals

    return find(originals("torch"))


def _warn_of_early_references() -> None:
    from safemodel._patch.early import is_time_to_look

    found = early_references() if is_time_to_look() else []
    if found:
        from safemodel._patch.call_sites import warn_once

        more = f" and {len(found) - 10} more" if len(found) > 10 else ""
        warn_once(
            "loaders were taken before safemodel.patch() and refuse to load:"
            f" {', '.join(found[:10])}{more}"
        )
