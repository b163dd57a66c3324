"""The processes of a server's Python models: which died, which are stopped, what they leave."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .processes import Stub, stubs_of
from .remains import SHARED_MEMORY

__all__ = ["StubWatch"]

_SURE_AFTER_S = 0.2
_LONGEST_STOP_S = 1.0
"""A server gives a process up that does not answer for a second, and uses its memory again: one
that wakes later writes there, and the server dies of it (2.51). So it must not wake."""

Key = tuple[int, int]


class StubWatch:
    """Knows the processes of one server's models.

    A process that its server has ended is waited for by it and vanishes; one that died stays as
    the kernel's record (``Z``) with neither name nor arguments, so these are remembered.

    Args:
        server: Process number of tritonserver.
        mark: What names of its shared memory begin with.
        look: Looks at the processes.
        memory: Folder of the shared memory.
        clock: Seconds, monotonic.
        sleep: Waits.
    """

    def __init__(
        self,
        server: int,
        mark: str,
        *,
        look: Callable[[int], list[Stub]] = stubs_of,
        memory: Path = SHARED_MEMORY,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._mark = mark
        self._look = look
        self._memory = memory
        self._clock = clock
        self._sleep = sleep
        self._seen: dict[Key, Stub] = {}
        self._stopped: dict[Key, float] = {}
        self._handled: set[Key] = set()

    def dead(self) -> list[Stub]:
        """Name those that died, or were stopped and are ended here, since they were forgotten.

        One is believed dead at the second look: at the first its server may be about to end it.
        """
        now = self._survey()
        sure = {key for key, stub in now.items() if stub.dead} - self._handled
        if sure:
            self._sleep(_SURE_AFTER_S)
            now = self._survey()
            sure &= {key for key, stub in now.items() if stub.dead}
        sure |= self._end_stopped(now)
        return [self._seen[key] for key in sure if self._seen[key].model]

    def end_stopped(self, models: Iterable[str]) -> None:
        """End the stopped processes of models, which would not hear that they are unloaded."""
        names = set(models)
        for stub in self._survey().values():
            if stub.model in names and stub.stopped:
                stub.process.send(signal.SIGKILL)

    def forget(self, models: Iterable[str]) -> None:
        """The models were loaded anew: remove what their dead left, and speak of them no more."""
        names = set(models)
        for key, stub in self._survey().items():
            known = self._seen[key]
            if stub.dead and known.model in names:
                self._handled.add(key)
                if known.region.startswith(self._mark) and "/" not in known.region:
                    with contextlib.suppress(OSError):
                        (self._memory / known.region).unlink()

    def _survey(self) -> dict[Key, Stub]:
        """Look, and remember the names of those that have one still."""
        now = {(s.process.pid, s.process.started): s for s in self._look(self._server)}
        self._seen = {
            key: stub if stub.model else self._seen.get(key, stub) for key, stub in now.items()
        }
        self._handled &= set(now)
        return now

    def _end_stopped(self, now: dict[Key, Stub]) -> set[Key]:
        """End those that have been stopped for too long."""
        since = {key: self._stopped.get(key, self._clock()) for key, s in now.items() if s.stopped}
        ended = {key for key, at in since.items() if self._clock() - at >= _LONGEST_STOP_S}
        for key in ended:
            now[key].process.send(signal.SIGKILL)
        self._stopped = {key: at for key, at in since.items() if key not in ended}
        return ended
