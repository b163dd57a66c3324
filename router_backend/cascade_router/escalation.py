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
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import BusyError, CascadeError, TierError
from .gate import DECIDED, Ints
from .pace import Pace
from .scores import Floats
from .walk import Walk

__all__ = ["Escalation", "Group", "Observer", "RunTier", "stack"]

Array = npt.NDArray[Any]

RunTier = Callable[[int, Array], Floats]
"""(tier, (n, ...) rows) -> (n, C) logits; raises ``CascadeError`` when the tier does not answer."""

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told what becomes of the rows of one walk; called from any thread."""

    def ran(self, tier: int, rows: Ints, scores: Floats) -> None:
        """Rows have run a tier and are settled; (n,) scores, as they decided."""

    def report(self, rows: Ints, error: CascadeError | None) -> None:
        """Rows are decided, or have failed by ``error``."""


@dataclass(slots=True, eq=False)
class Group:
    """Rows of one walk that wait for the same tier.

    Attributes:
        walk: Where they are; groups of one walk hold different rows, so they need no lock.
        rows: (n,) int, their numbers in the walk.
        inputs: (n, ...) their canonical tensor, owned.
        observer: Told what becomes of them.
        until: (n,) float, moments by the queue's clock to answer by; None: no row has one.
    """

    walk: Walk
    rows: Ints
    inputs: Array
    observer: Observer
    until: Floats | None = None

    def part(self, mask: Any) -> Group:
        """Take some of the rows, with a copy of their inputs where ``mask`` is not a slice."""
        until = None if self.until is None else self.until[mask]
        return Group(self.walk, self.rows[mask], self.inputs[mask], self.observer, until)


class Escalation:
    """Queues and workers of all tiers.

    Args:
        run: Runs a tier.
        pace: Knows how long tiers take.
        n_tiers: Number of tiers.
        max_batch: Most rows that one call of a tier may hold.
        max_waiting: Most rows that may wait for one tier; further ones are refused at once.
        workers: Calls of one tier that may be under way at the same time.
        clock: Seconds, monotonic; deadlines are moments of it.
    """

    def __init__(
        self,
        run: RunTier,
        pace: Pace,
        *,
        n_tiers: int,
        max_batch: int,
        max_waiting: int,
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._pace = pace
        self._clock = clock
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
            inputs = stack([group.inputs for group in groups])
            start_s = self._clock()
            logits = self._run(tier, inputs)
            self._pace.took(tier, len(inputs), self._clock() - start_s)
            start = 0
            for group in groups:
                end = start + len(group.rows)
                scores = group.walk.settle(tier, group.rows, logits[start:end])
                group.observer.ran(tier, group.rows, scores)
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
                some.observer.report(some.rows, None)
                continue
            late = self.late(tier, some, self._queues[tier].waiting)
            if late is not None:
                self._send_lower(tier, some.part(late))
                some = some.part(~late)
            if len(some.rows) and not self._queues[tier].put(some):
                message = f"tier {tier}: queue full, {self._queues[tier].max_waiting} rows may wait"
                error = BusyError(message, hint="try again later, or send less")
                some.observer.report(some.rows, error)

    def late(self, tier: int, group: Group, n_waiting: int = 0) -> npt.NDArray[np.bool_] | None:
        """Say which rows of a group the tier would answer after their deadlines.

        Args:
            tier: Would run them.
            group: n rows.
            n_waiting: Rows that wait for the tier before them.

        Returns:
            (n,) bool, or None when it is none.
        """
        if group.until is None:
            return None
        done = self._clock() + self._pace.expect_s(tier, len(group.rows), n_waiting)
        late = group.until < done
        return late if late.any() else None

    def let_go(self, tier: int, group: Group) -> Group | None:
        """Do without a tier that would be late: the best answer so far, a lower tier, or none.

        Returns:
            The rows that now wait for a lower tier; None when there are none.
        """
        walk, rows = group.walk, group.rows
        answered = walk.exit_tier[rows] >= 0
        if answered.any():
            walk.stop(rows[answered])
            group.observer.report(rows[answered], None)
        if answered.all():
            return None
        fresh = group.part(~answered)
        walk.lower(fresh.rows)
        refused = walk.tier[fresh.rows] >= tier
        if refused.any():
            ms = 1e3 * self._pace.expect_s(tier, len(rows), self._queues[tier].waiting)
            message = f"cascade_deadline_ms: tier {tier} is expected to take {ms:.0f} ms"
            error = BusyError(message, hint="allow more time or a lower cascade_min_tier")
            walk.stop(fresh.rows[refused])
            group.observer.report(fresh.rows[refused], error)
        return None if refused.all() else fresh.part(~refused)

    def close(self) -> None:
        """Let the workers finish what waits, lowest tier first, and end them."""
        per_tier = len(self._threads) // len(self._queues)
        for tier, queue in enumerate(self._queues):
            queue.close()
            for thread in self._threads[tier * per_tier : (tier + 1) * per_tier]:
                thread.join()

    def _work(self, tier: int) -> None:
        while groups := self._queues[tier].take():
            groups = self._in_time(tier, groups)
            if not groups:
                continue
            error = self.run(tier, groups)
            for group in groups:
                if error is None:
                    self.send(group)
                else:
                    group.observer.report(group.rows, error)

    def _send_lower(self, tier: int, group: Group) -> None:
        lower = self.let_go(tier, group)
        if lower is not None:
            self.send(lower)

    def _in_time(self, tier: int, groups: Sequence[Group]) -> list[Group]:
        """Let rows go whose time ran out in the queue."""
        kept = []
        for group in groups:
            late = self.late(tier, group)
            if late is None:
                kept.append(group)
                continue
            self._send_lower(tier, group.part(late))
            if not late.all():
                kept.append(group.part(~late))
        return kept


class _Queue:
    """Groups that wait for one tier, at most ``max_waiting`` rows."""

    def __init__(self, max_batch: int, max_waiting: int) -> None:
        self.max_waiting = max_waiting
        self.waiting = 0
        self._max_batch = max_batch
        self._groups: deque[Group] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, group: Group) -> bool:
        """Add a group; False when that were too many rows, or the end has come."""
        with self._changed:
            if self._closed or self.waiting + len(group.rows) > self.max_waiting:
                return False
            self._groups.append(group)
            self.waiting += len(group.rows)
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
            self.waiting -= self._max_batch - room
            return taken

    def close(self) -> None:
        """Refuse nothing, but let ``take`` end when nothing waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def stack(arrays: Sequence[Array]) -> Array:
    """Join the rows of several arrays; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
