"""A thread that looks after what is due, and sleeps until then."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

__all__ = ["Watch"]

_AFTER_FAULT_S = 0.5
_LONGEST_S = 3600.0
_log = logging.getLogger(__name__)


class Watch:
    """Calls ``look`` at the moments it is told of.

    Args:
        look: Does what is due; returns the next moment, inf: none is known.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, look: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._due_s = math.inf
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="deadlines", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def at(self, moment_s: float) -> None:
        """Look at this moment at the latest; cheap where that is known already."""
        if moment_s < self._due_s:
            with self._changed:
                self._due_s = min(moment_s, self._due_s)
                self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while self._sleep():
            try:
                self.at(self._look())
            except Exception:  # noqa: BLE001  # a watch that dies would keep no deadline any more
                _log.exception("fault in the router")
                self.at(self._clock() + _AFTER_FAULT_S)

    def _sleep(self) -> bool:
        """Wait until something is due; False: the end has come."""
        with self._changed:
            while not self._closed and (left_s := self._due_s - self._clock()) > 0:
                self._changed.wait(None if left_s == math.inf else min(left_s, _LONGEST_S))
            # Forgotten before the look, so that what is told meanwhile is not.
            self._due_s = math.inf
            return not self._closed
