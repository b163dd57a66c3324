"""The processes of a server's Python models: which died, which are stopped, what they leave."""

from __future__ import annotations

import contextlib
import math
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

_LINGER_S = 30.0
"""How long a process may go on after its model was unloaded, with the requests that it had taken. A
server does not let go of requests that a process died with (2.51), so not of the version of the
model that they were sent to, nor of that version's other processes."""

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
        # When processes of what was unloaded must have gone; inf: they are ended and cleaned up.
        self._former: dict[Key, float] = {}

    def dead(self) -> list[Stub]:
        """Name those that died, or were stopped and are ended here, of what is loaded.

        One is believed dead at the second look: at the first its server may be about to end it.
        """
        now = self._survey()
        sure = {key for key, stub in now.items() if stub.dead} - set(self._former)
        if sure:
            self._sleep(_SURE_AFTER_S)
            now = self._survey()
            sure &= {key for key, stub in now.items() if stub.dead}
        sure |= self._end_stopped(now) - set(self._former)
        return [self._seen[key] for key in sure if self._seen[key].model]

    def part(self, models: Iterable[str]) -> None:
        """Models are about to be unloaded: their processes are nobody's loss from now on.

        The stopped ones are ended, which would not hear of it.
        """
        names = set(models)
        for key, stub in self._survey().items():
            if self._seen[key].model in names:
                self._former.setdefault(key, self._clock() + _LINGER_S)
                if stub.stopped:
                    stub.process.send(signal.SIGKILL)

    def tidy(self) -> list[Stub]:
        """End processes that linger after their model was unloaded, and remove what the dead left.

        Returns:
            Those that are ended here.
        """
        ended = []
        for key, stub in self._survey().items():
            due_s = self._former.get(key, math.inf)
            if due_s < math.inf and (stub.dead or due_s <= self._clock()):
                self._former[key] = math.inf
                if not stub.dead:
                    stub.process.send(signal.SIGKILL)
                    ended.append(stub)
                region = self._seen[key].region
                if region.startswith(self._mark) and "/" not in region:
                    with contextlib.suppress(OSError):
                        (self._memory / region).unlink()
        return ended

    def _survey(self) -> dict[Key, Stub]:
        """Look, and remember the names of those that have one still."""
        now = {(s.process.pid, s.process.started): s for s in self._look(self._server)}
        self._seen = {
            key: stub if stub.model else self._seen.get(key, stub) for key, stub in now.items()
        }
        self._former = {key: due_s for key, due_s in self._former.items() if key in now}
        return now

    def _end_stopped(self, now: dict[Key, Stub]) -> set[Key]:
        """End those that have been stopped for too long."""
        since = {key: self._stopped.get(key, self._clock()) for key, s in now.items() if s.stopped}
        ended = {key for key, at in since.items() if self._clock() - at >= _LONGEST_STOP_S}
        for key in ended:
            now[key].process.send(signal.SIGKILL)
        self._stopped = {key: at for key, at in since.items() if key not in ended}
        return ended
