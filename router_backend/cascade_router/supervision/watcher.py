"""Looks after the models of a running server, whoever runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .health import Patience
from .stub_watch import StubWatch
from .triton import Triton
from .ward import Ward

__all__ = ["Pace", "Watcher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often, how long, how many times. Seconds unless said otherwise.

    Attributes:
        look_s: Between canaries.
        glance_s: Between looks at the processes.
        start_s: A server may take to load its models.
        silent_s: A server may give no sign of life before it is started anew.
        drain_s: Requests under way may take after SIGTERM.
        stop_s: And the server to end after that.
        starts: Times in a row that a server may end before all it serves has answered, and before
            ``well_s``; then it is given up.
        well_s: A server that ran so long has not died "in a row".
        first_pause_s: Before a start after a death; doubled with each death in a row.
        longest_pause_s: And at most this.
        served_pause_s: At most this after a server that served: it is needed back soon.
    """

    look_s: float = 3.0
    glance_s: float = 0.5
    start_s: float = 600.0
    silent_s: float = 30.0
    drain_s: float = 20.0
    stop_s: float = 3.0
    starts: int = 5
    well_s: float = 60.0
    first_pause_s: float = 0.25
    longest_pause_s: float = 30.0
    served_pause_s: float = 2.0


class Watcher:
    """Looks after the models of a server that someone else runs.

    Args:
        triton: The server.
        tell: Takes a line for each change.
        pace: How often.
        patience: How long a model may fail.
        stubs: Its models' processes, if they can be seen.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        triton: Triton,
        tell: Callable[[str], None],
        *,
        pace: Pace,
        patience: Patience | None = None,
        stubs: StubWatch | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ward = Ward(triton, tell, stubs=stubs, patience=patience, clock=clock)
        self._tell = tell
        self._pace = pace
        self._clock = clock
        self._next_look = -float("inf")
        self._report: dict[str, Any] = {"ready": False, "state": "starting"}
        self._looked_at = clock()

    def step(self) -> None:
        """Do what is due now: a look at processes or canaries, then what follows from them."""
        try:
            self._step()
        except Exception as exc:  # noqa: BLE001  # a fault of ours must not end what serves well
            self._tell(f"this look failed: {type(exc).__name__}: {exc}")
            self._next_look = self._clock() + self._pace.look_s

    def _step(self) -> None:
        if self.ward.glance():
            self._remember()
            self.ward.revive()
        elif self._clock() < self._next_look:
            return
        self.ward.look()
        self._remember()
        if self.ward.revive():
            self.ward.look()
            self._remember()
        self._next_look = self._clock() + self._pace.look_s

    def report(self) -> dict[str, Any]:
        """Tell what was found, and how old it is; what is too old is no longer believed."""
        age = self._clock() - self._looked_at
        stale = age > 4 * self._pace.look_s + 10.0
        report = {**self._report, "age_s": round(age, 1)}
        return {**report, "ready": False, "state": "stuck"} if stale else report

    def run(self, stop: threading.Event) -> int:
        """Go on until told to stop."""
        while not stop.is_set():
            self.step()
            stop.wait(self._pace.glance_s)
        return 0

    def _remember(self) -> None:
        ready = self.ward.ready
        state = "serving" if ready else "impaired"
        self._report = {"ready": ready, "state": state, **self.ward.report()}
        self._looked_at = self._clock()
