"""Ctrl-C during a scan counts, wherever it comes; other ends leave nothing behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_PAUSE_S = 0.02


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
        if _would_be_lost(frame):
            lost = True
            return
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


def _would_be_lost(frame: FrameType | None) -> bool:
    """Tell whether an exception would get no further than what runs now."""
    while frame is not None:
        # A finaliser; or the compiler of kernels, which is C and calls back.
        module = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "__del__" or module.startswith("llvmlite."):
            return True
        frame = frame.f_back
    return False


@contextmanager
def ends_clean() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as an error does: nothing half is left."""

    def end(number: int, frame: FrameType | None) -> None:
        if _would_be_lost(frame):
            again = threading.Timer(_PAUSE_S, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
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
