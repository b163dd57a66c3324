"""The rows on their way up: one bounded queue per tier, emptied in merged batches.

Rows that escalate leave the thread that received them and wait here for their next tier. What
waits for one tier runs together, whichever batch it came in with; answers go back to the walks, and
rows that need more wait for the tier above. Nothing here knows Triton: a tier is run by a callable
and decided rows are handed to another, so tests drive it with fakes.

Shapes: n rows, C classes; ``...`` is the canonical tensor of one row.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BusyError, CascadeError, TierError
from .gate import DECIDED, Ints
from .scores import Floats
from .walk import Walk

__all__ = ["Escalation", "Group", "Report", "RunTier", "stack"]

Array = npt.NDArray[Any]

RunTier = Callable[[int, Array], Floats]
"""(tier, (n, ...) rows) -> (n, C) logits; raises ``CascadeError`` when the tier does not answer."""

Report = Callable[[Ints, CascadeError | None], None]
"""(rows, error): these rows of a walk are decided, or have failed by ``error``."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Group:
    """Rows of one walk that wait for the same tier.

    Attributes:
        walk: Where they are; groups of one walk hold different rows, so they need no lock.
        rows: (n,) int, their numbers in the walk.
        inputs: (n, ...) their canonical tensor, owned.
        report: Takes them when they are decided or have failed; called from any thread.
    """

    walk: Walk
    rows: Ints
    inputs: Array
    report: Report

    def part(self, mask: Any) -> Group:
        """Take some of the rows, with a copy of their inputs where ``mask`` is not a slice."""
        return Group(self.walk, self.rows[mask], self.inputs[mask], self.report)


class Escalation:
    """Queues and workers of all tiers.

    Args:
        run: Runs a tier.
        n_tiers: Number of tiers.
        max_batch: Most rows that one call of a tier may hold.
        max_waiting: Most rows that may wait for one tier; further ones are refused at once.
        workers: Calls of one tier that may be under way at the same time.
    """

    def __init__(
        self, run: RunTier, *, n_tiers: int, max_batch: int, max_waiting: int, workers: int
    ) -> None:
        self._run = run
        self._queues = [_Queue(max_batch, max_waiting) for _ in range(n_tiers)]
        self._threads = [
            threading.Thread(target=self._work, args=(tier,), name=f"tier-{tier}", daemon=True)
            for tier in range(n_tiers)
            for _ in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, tier: int, groups: Sequence[Group]) -> CascadeError | None:
        """Run a tier for several groups at once, in the calling thread, and settle their walks.

        Returns:
            None, or why none of their rows was settled.
        """
        try:
            logits = self._run(tier, stack([group.inputs for group in groups]))
            start = 0
            for group in groups:
                end = start + len(group.rows)
                group.walk.settle(tier, group.rows, logits[start:end])
                start = end
        except CascadeError as error:
            return error
        except Exception:  # noqa: BLE001  # a worker that dies leaves every later row hanging
            _log.exception("tier %d: fault in the router", tier)
            return TierError(f"tier {tier}: fault in the router, see the server's log")
        return None

    def send(self, group: Group) -> None:
        """Report the rows that are decided, queue the others for the tiers they wait for."""
        tiers = group.walk.tier[group.rows]
        for tier in np.unique(tiers).tolist():
            some = group.part(tiers == tier)
            if tier == DECIDED:
                some.report(some.rows, None)
            elif not self._queues[tier].put(some):
                message = f"tier {tier}: queue full, {self._queues[tier].max_waiting} rows may wait"
                some.report(some.rows, BusyError(message, hint="try again later, or send less"))

    def close(self) -> None:
        """Let the workers finish what waits, lowest tier first, and end them."""
        per_tier = len(self._threads) // len(self._queues)
        for tier, queue in enumerate(self._queues):
            queue.close()
            for thread in self._threads[tier * per_tier : (tier + 1) * per_tier]:
                thread.join()

    def _work(self, tier: int) -> None:
        while groups := self._queues[tier].take():
            error = self.run(tier, groups)
            for group in groups:
                if error is None:
                    self.send(group)
                else:
                    group.report(group.rows, error)


class _Queue:
    """Groups that wait for one tier, at most ``max_waiting`` rows."""

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self._max_batch = max_batch
        self._groups: deque[Group] = deque()
        self._waiting = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, group: Group) -> bool:
        """Add a group; False when that were too many rows."""
        with self._changed:
            if self._waiting + len(group.rows) > self.max_waiting:
                return False
            self._groups.append(group)
            self._waiting += len(group.rows)
            self._changed.notify()
        return True

    def take(self) -> list[Group]:
        """Wait, then take what fits into one call; empty once closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._groups or self._closed)
            taken: list[Group] = []
            room = self._max_batch
            while self._groups and room > 0:
                group = self._groups.popleft()
                if len(group.rows) > room:
                    self._groups.appendleft(group.part(slice(room, None)))
                    group = group.part(slice(0, room))
                taken.append(group)
                room -= len(group.rows)
            self._waiting -= self._max_batch - room
            return taken

    def close(self) -> None:
        """Refuse nothing, but let ``take`` end when nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def stack(arrays: Sequence[Array]) -> Array:
    """Join the rows of several arrays; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
