"""Experts made side by side, a process each.

A process of its own gives its memory back, and takes no other expert along when a compiler crashes.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError, CascadeError

from .artifacts import Task
from .memory import Limits, turn
from .spec import Spec

__all__ = ["Workshop"]

_END_S = 5.0
"""A process that was told to end and does not is killed after this long."""


class Workshop:
    """Makes experts of one cascade side by side.

    Args:
        spec: The cascade.
        target: What runs the experts.
        rows: Canonical rows, as ``numpy.save`` writes them.
        limits: What may be used.
        tell: Takes progress.
        clock: Seconds.
    """

    def __init__(
        self,
        spec: Spec,
        target: str,
        rows: Path,
        limits: Limits,
        tell: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._target = target
        self._rows = rows
        self._limits = limits
        self._tell = tell
        self._clock = clock
        self._running: dict[str, _Worker] = {}

    def make(
        self,
        tasks: Sequence[Task],
        needs: Mapping[str, int],
        done: Callable[[Task, int, float], None],
    ) -> None:
        """Make experts.

        Args:
            tasks: What is to be made.
            needs: Bytes that each is expected to take, by name.
            done: Takes a task that is done, the most bytes its process took, and its start.

        Raises:
            CascadeError: The first failure. No other expert is started then, and those under way
                are finished: what they make is kept for the next build.
        """
        waiting = {task.expert.name: task for task in tasks}
        failure: CascadeError | None = None
        try:
            while self._running or (waiting and failure is None):
                if failure is None:
                    self._start(waiting, needs)
                for worker in self._heard():
                    try:
                        ended = worker.hear(self._tell)
                    except CascadeError as exc:
                        failure = failure or exc
                        self._leave(worker, failed=True)
                    else:
                        if ended:
                            self._leave(worker, failed=False)
                            done(worker.task, worker.peak_bytes, worker.start)
        finally:
            for worker in self._running.values():
                worker.end()
        if failure is not None:
            raise failure

    def _start(self, waiting: dict[str, Task], needs: Mapping[str, int]) -> None:
        while name := turn(list(waiting), list(self._running), needs, self._limits):
            task = waiting.pop(name)
            self._tell(f"building {name}: {task.reason}")
            self._running[name] = _Worker(task, self._spec, self._target, self._rows, self._clock())

    def _heard(self) -> list[_Worker]:
        """Wait for news; give the workers that have some."""
        pipes = {worker.pipe: worker for worker in self._running.values()}
        return [pipes[pipe] for pipe in connection.wait(list(pipes)) if pipe in pipes]

    def _leave(self, worker: _Worker, *, failed: bool) -> None:
        name = worker.task.expert.name
        del self._running[name]
        worker.leave()
        if failed and self._running:
            self._tell(f"{name} failed; finishing {', '.join(self._running)}")


class _Worker:
    """A process that makes one expert."""

    def __init__(self, task: Task, spec: Spec, target: str, rows: Path, start: float) -> None:
        self.task = task
        self.start = start
        self.peak_bytes = 0
        # Spawned: a fork would copy the locks of whatever threads run here.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_work, args=(theirs, task, spec, target, rows), daemon=True
        )
        self._process.start()
        theirs.close()  # so that its end is the end of the pipe

    def hear(self, tell: Callable[[str], None]) -> bool:
        """Take one message; True: it was the last.

        Raises:
            CascadeError: If the expert cannot be made, or its process died.
        """
        try:
            kind, value = self.pipe.recv()
        except EOFError as exc:
            self._process.join()
            raise self._death() from exc
        if kind == "tell":
            tell(f"{self.task.expert.name}: {value}")
        elif kind == "error":
            raise value
        elif kind == "bug":
            message = f"in the process that makes {self.task.expert.name!r}:\n{value}"
            raise RuntimeError(message)
        else:
            self.peak_bytes = value
        return bool(kind == "done")

    def leave(self) -> None:
        """Let the process end, which has said its last word."""
        self._process.join(_END_S)
        self.end()

    def end(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        self._process.terminate()
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _death(self) -> BuildError:
        name, code = self.task.expert.name, self._process.exitcode
        cause = f"exit code {code}"
        if code is not None and code < 0:
            cause = signal.Signals(-code).name
        message = f"expert {name!r}: the process that makes it died: {cause}"
        hint = "it may have run out of memory: try --jobs 1, or a larger machine"
        return BuildError(message, hint=hint)


def _work(
    pipe: connection.Connection[Any, Any], task: Task, spec: Spec, target: str, rows: Path
) -> None:
    """Make one expert in a process of its own, and tell how it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Compilers print from C; stdout is for results.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _make(task, spec, target, rows, lambda text: pipe.send(("tell", text)))
    except CascadeError as exc:
        pipe.send(("error", exc))
    except Exception:  # noqa: BLE001  # raised again by the parent
        pipe.send(("bug", traceback.format_exc()))
    else:
        pipe.send(("done", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def _make(task: Task, spec: Spec, target: str, rows: Path, tell: Callable[[str], None]) -> None:
    import numpy as np

    from .making import make

    make(task, spec, target, np.load(rows, allow_pickle=False), tell)


def _end_with_parent() -> None:
    """End when the parent does, even if it is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
