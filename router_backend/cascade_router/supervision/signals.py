"""Being told to stop by signals."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["told_to_stop"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def told_to_stop(stop: threading.Event, hurry: threading.Event) -> Iterator[None]:
    """Set ``stop`` at SIGTERM, SIGINT or SIGHUP, and ``hurry`` at the second.

    A handler runs in the main thread, between any two of its steps. That thread may just hold the
    lock of the very event that it waits for, and would wait for itself for ever; so the events are
    set by another thread, which hears of a signal by a pipe. A signal that was ignored when this
    program was started, as ``nohup`` does, stays so.

    Args:
        stop: Set at the first signal.
        hurry: Set at the second.
    """
    heard, tell = os.pipe()
    os.set_blocking(tell, False)

    def told(*_: Any) -> None:
        with contextlib.suppress(BlockingIOError):  # as many as a pipe holds have been told
            os.write(tell, b"!")

    def listen() -> None:
        for event in (stop, hurry):
            if os.read(heard, 1):
                event.set()

    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    before = {
        sign: signal.signal(sign, told)
        for sign in _SIGNALS
        if signal.getsignal(sign) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
        os.close(tell)
        listener.join()
        os.close(heard)
