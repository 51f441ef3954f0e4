"""Ctrl-C during a scan counts, wherever it comes; other ends leave nothing behind."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


@contextmanager
def interrupts_count() -> Iterator[Callable[[], None]]:
    """Give a function that raises KeyboardInterrupt if one would have been lost.

    Python raises it within whatever runs; where that is a finaliser, or what a library
    in C calls back, it prints the exception, forgets it and goes on. An interrupt that
    is ignored stays ignored, as for a job in the background.
    """
    lost = False

    def interrupt(_number: int, frame: FrameType | None) -> None:
        nonlocal lost
        while frame is not None:
            if frame.f_code.co_name == "__del__" or _is_compiling(frame):
                lost = True
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    def check() -> None:
        if lost:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


def _is_compiling(frame: FrameType) -> bool:
    """Tell whether a frame is of the compiler of kernels, which calls back."""
    return str(frame.f_globals.get("__name__")).startswith("llvmlite.")


@contextmanager
def ends_clean() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as an error does: nothing half is left."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is signal.SIG_DFL
    ]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
