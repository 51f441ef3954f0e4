"""Errors without the frames they passed, whose local variables crash reporters send."""

from __future__ import annotations


def drop_frames(error: BaseException) -> None:
    """Take the frames off an error and off all that led to it.

    Args:
        error: The error; what it says stays.
    """
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        waiting += [one.__cause__, one.__context__]
