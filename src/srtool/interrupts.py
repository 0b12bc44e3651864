"""Ctrl-C and SIGTERM, put off while something must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_held(from_children: bool = False) -> Iterator[Callable[[], bool]]:
    """Have an interrupt come when the block has ended; what is yielded says whether one waits.

    from_children: no Ctrl-C reaches processes that are started meanwhile, who would print a
    traceback; they inherit that. Nothing is held outside the main thread, where none comes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []
    # Put off here and not by the mask alone: any thread may be the one to take it
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in _NUMBERS
    }
    is_blocked = from_children and hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if is_blocked else ()
    try:
        yield lambda: bool(came)
    finally:
        if is_blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if came:
            signal.raise_signal(came[0])
