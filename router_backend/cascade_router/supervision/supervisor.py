"""Keeps a server running and its models alive, and says truly whether it serves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from cascade_router.errors import CascadeError, ServerError

from .drain import drain
from .health import Patience
from .processes import Process, reap
from .remains import Claim
from .stub_watch import StubWatch
from .triton import Triton
from .watcher import Pace, Watcher

__all__ = ["Running", "Supervisor"]


class Running(Protocol):
    """A server process that can be started and stopped."""

    def start(self) -> None:
        """Start it; it is not ready yet."""

    def stop(self, timeout_s: float) -> int:
        """Stop it, by force after that time; returns its exit status."""

    @property
    def pid(self) -> int:
        """Its process number, once started."""

    @property
    def ended(self) -> int | None:
        """Its exit status; None while it runs."""


class Supervisor:
    """Runs a server as a child, starts it anew when it dies, and looks after its models.

    Args:
        claim: The repository, which nobody else serves.
        launch: Makes a server, not started, whose launch has the given mark.
        connect: Opens the connection to it.
        guard: Raises a `ServerError` where what answers is not the process group of that number, or
            its restricted interfaces are open.
        tell: Takes a line for each change.
        pace: How often, how long, how many times.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        claim: Claim,
        launch: Callable[[str], Running],
        connect: Callable[[], Triton],
        tell: Callable[[str], None],
        *,
        guard: Callable[[int], None] = lambda _: None,
        pace: Pace | None = None,
        patience: Patience | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._claim = claim
        self._launch = launch
        self._connect = connect
        self._guard = guard
        self._tell = tell
        self._pace = pace or Pace()
        self._patience = patience
        self._clock = clock
        self._watcher: Watcher | None = None
        self._state = "starting"
        self._restarts = 0
        self._served = False
        self._group = 0
        self._whole = False
        self._serving_since: float | None = None

    def report(self) -> dict[str, Any]:
        """Tell whether it serves, for machines; may be called from any thread."""
        watcher = self._watcher
        if watcher is None or self._state != "serving":
            found: dict[str, Any] = {"ready": False, "state": self._state}
        else:
            found = watcher.report()
        return {**found, "restarts": self._restarts}

    def run(self, stop: threading.Event, hurry: threading.Event) -> int:
        """Serve until told to stop.

        Args:
            stop: Drain and stop.
            hurry: Do not drain any longer.

        Returns:
            Exit status: 0 when stopped, 1 when the server was given up.

        Raises:
            ServerError: If it cannot even be started the first time.
        """
        self._clean("a predecessor")
        deaths = in_vain = 0
        while True:
            self._whole, self._serving_since = False, None
            try:
                why = self._serve(stop, hurry)
            except (CascadeError, OSError) as error:  # later on, a full disk too, say
                if not self._served:
                    self._clean("it")
                    raise
                why = error.message if isinstance(error, CascadeError) else str(error)
            self._state = "down"
            self._clean("it")
            if self._group:
                reap(self._group)
            if why is None:
                return 0
            if not self._served:
                message = f"cascade-serve: {why}"
                raise ServerError(message, hint="its log, above, says more")
            deaths = 1 if self._served_well() else deaths + 1
            in_vain = 0 if self._whole or self._served_well() else in_vain + 1
            if in_vain >= self._pace.starts:
                self._tell(f"server: {why}; given up after {in_vain} starts in vain")
                return 1
            longest = self._pace.longest_pause_s if in_vain else self._pace.served_pause_s
            pause = min(self._pace.first_pause_s * 2.0 ** (deaths - 1), longest)
            self._tell(f"server: {why}; starting it anew in {pause:g} s")
            if stop.wait(pause):
                return 0
            self._restarts += 1

    def _serve(self, stop: threading.Event, hurry: threading.Event) -> str | None:
        """Run one server; returns why it is no more, or None when told to stop."""
        self._state = "starting"
        mark = self._claim.new_mark()
        server = self._launch(mark)
        server.start()
        self._group = server.pid
        triton = self._connect()
        try:
            why = self._await_up(server, triton, stop)
            if why is not None or stop.is_set():
                return why
            self._guard(server.pid)
            self._watcher = Watcher(
                triton,
                self._tell,
                pace=self._pace,
                patience=self._patience,
                stubs=StubWatch(server.pid, mark),
                clock=self._clock,
            )
            self._state, self._served = "serving", True
            self._serving_since = self._clock()
            why = self._attend(server, triton, self._watcher, stop)
            if why is None:
                self._drain(server, triton, self._watcher, hurry)
            return why
        finally:
            triton.close()
            server.stop(self._pace.stop_s)

    def _served_well(self) -> bool:
        """Say whether the last one served so long that it has not died in a row; loading apart."""
        since = self._serving_since
        return since is not None and self._clock() - since >= self._pace.well_s

    def _await_up(self, server: Running, triton: Triton, stop: threading.Event) -> str | None:
        end = self._clock() + self._pace.start_s
        while not stop.is_set():
            if server.ended is not None:
                return f"tritonserver ended with status {server.ended} while loading"
            if triton.live():
                return None
            if self._clock() >= end:
                return f"tritonserver has not started within {self._pace.start_s:g} s"
            stop.wait(self._pace.glance_s / 2)
        return None

    def _attend(
        self, server: Running, triton: Triton, watcher: Watcher, stop: threading.Event
    ) -> str | None:
        silence = _Silence(server.pid, self._pace.silent_s, self._clock)
        while not stop.is_set():
            if server.ended is not None:
                return f"tritonserver ended with status {server.ended}"
            watcher.step()
            self._whole = self._whole or watcher.ward.ready
            alive = watcher.ward.fault is None or triton.live()
            if silence.too_long(alive):
                return f"tritonserver gave no sign of life for {self._pace.silent_s:g} s"
            stop.wait(self._pace.glance_s)
        return None

    def _drain(
        self, server: Running, triton: Triton, watcher: Watcher, hurry: threading.Event
    ) -> None:
        self._state = "draining"
        self._tell("server: draining")
        done = drain(
            triton,
            watcher.ward.layers(),
            limit_s=self._pace.drain_s,
            hurry=hurry.is_set,
            gone=lambda: server.ended is not None,
            clock=self._clock,
        )
        self._tell("server: drained" if done else "server: stopped with requests under way")

    def _clean(self, whose: str) -> None:
        found = self._claim.clean()
        if found:
            self._tell(f"removed what {whose} left: {found}")


class _Silence:
    """Tells a server that hangs from one that is busy: the busy one uses the processor."""

    _WORK_S = 1.0

    def __init__(self, pid: int, limit_s: float, clock: Callable[[], float]) -> None:
        self._pid = pid
        self._limit_s = limit_s
        self._clock = clock
        self._since: float | None = None
        self._cpu_s = 0.0

    def too_long(self, alive: bool) -> bool:
        now = self._clock()
        if alive:
            self._since = None
            return False
        cpu_s = Process.cpu_s(self._pid)
        if self._since is None or cpu_s - self._cpu_s >= self._WORK_S:
            self._since, self._cpu_s = now, cpu_s
        return now - self._since >= self._limit_s
