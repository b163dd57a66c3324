"""The rows on their way up: what each tier is handed, and what becomes of rows it does not answer.

Rows that escalate leave the thread that received them and wait for their next tier. What waits for
one tier runs together, whichever batch it came in with; answers go back to the walks, and rows that
need more wait for the tier above. Rows whose time is over, and rows of a tier that failed or hangs,
are let go wherever they are: each is reported once, by who holds it then (see ``Group``). Nothing
here knows Triton: a tier is run by a callable and decided rows are handed to another.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .call import Call
from .errors import BusyError, CascadeError, TierError
from .fate import cut_short, go_lower, go_without, refuse, settle
from .gate import DECIDED
from .group import Array, Group, stack
from .line import Health, Line
from .outcome import Outcome, outcome_of
from .pace import Pace
from .scores import Floats
from .watch import Watch

__all__ = ["PATIENCE_S", "Escalation", "RunTier"]

PATIENCE_S = 0.1
"""How long a lender waits for a call: a slower one is worth a response sender for its requests."""

RunTier = Callable[[int, Array], Floats]
"""(tier, (n, ...) rows) -> (n, C) logits; raises ``CascadeError`` when the tier does not answer."""

_LOOK_AGAIN_S = 0.05
_log = logging.getLogger(__name__)


class Escalation:
    """Queues and workers of all tiers.

    ``start`` begins the threads that call ``begin``, ``finish`` and ``look``.

    Args:
        run: Runs a tier.
        pace: Knows how long tiers take.
        n_tiers: Number of tiers.
        max_batch: Most rows that one call of a tier may hold.
        max_waiting: Most rows that may wait for one tier; further ones are refused at once.
        workers: Calls of one tier that may be under way at the same time.
        timeout_s: A call that takes longer has failed.
        on_failure: What becomes of the rows of a tier that failed, one of ``ON_TIER_FAILURE``.
        health: Told of failures; None: nobody is.
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
        timeout_s: float = 10.0,
        on_failure: str = "escalate",
        health: Health | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runs = [functools.partial(run, tier) for tier in range(n_tiers)]
        self._pace = pace
        self._on_failure = on_failure
        self._timeout_s = timeout_s
        self._clock = clock
        self._lines = [
            Line(
                tier,
                max_batch=max_batch,
                max_waiting=max_waiting,
                workers=workers,
                timeout_s=timeout_s,
                health=health,
            )
            for tier in range(n_tiers)
        ]
        self._watch = Watch(self.look, clock)
        self._threads = [
            [
                threading.Thread(target=self._work, args=(tier,), name=f"tier-{tier}", daemon=True)
                for _ in range(workers)
            ]
            for tier in range(n_tiers)
        ]

    def start(self) -> None:
        """Begin to work."""
        self._watch.start()
        for threads in self._threads:
            for thread in threads:
                thread.start()

    def run(self, tier: int, group: Group) -> list[Group]:
        """Run a tier in the calling thread, one that cannot hang.

        Returns:
            The rows that are the caller's to pass on, decided or waiting for another tier.
        """
        line, start_s, trial = self._lines[tier], self._clock(), False
        if line.open:
            if not line.admit(start_s):
                return self._without(tier, group, self._left_alone(tier))
            trial = True
        outcome = self._outcome(tier, [group])
        if trial or outcome.error is not None:
            line.judge(outcome, start_s, self._clock(), trial=trial)
            self._let_go_waiting(tier)
        return settle(tier, group, slice(None), outcome, self._on_failure)

    def lend(self, tier: int, group: Group, leave: Callable[[], None]) -> list[Group]:
        """Let a worker run a tier and wait for it, but not for long.

        Args:
            tier: Index of the tier.
            group: Rows that wait for it.
            leave: Called before the rows are no longer the caller's.

        Returns:
            As ``run``; none when the rows are under way and will be reported.
        """
        line, now_s = self._lines[tier], self._clock()
        if line.shut(now_s):
            return self._without(tier, group, self._left_alone(tier))
        group = group.owned()
        call = line.lend(group, now_s)
        if call is None:
            leave()
            self.send(group)
            return []
        assert call.answered is not None
        if not call.answered.acquire(timeout=min(PATIENCE_S, max(group.due_s - now_s, 0.0))):
            leave()
            if line.leave(call) is None:
                self._watch.at(call.due_s(self._timeout_s))
                return []
        assert call.outcome is not None
        line.end(call, call.outcome, self._clock())
        if call.outcome.error is not None:
            self._let_go_waiting(tier)
        return settle(tier, group, slice(None), call.outcome, self._on_failure)

    def send(self, group: Group) -> None:
        """Report the rows that are decided, let the others wait for their tiers."""
        tiers = group.walk.tier[group.rows]
        for tier in np.unique(tiers).tolist():
            some = group.part(tiers == tier)
            if tier == DECIDED:
                some.observer.report(some.rows, None)
            else:
                self._queue(tier, some)

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

    def let_go(self, tier: int, group: Group) -> list[Group]:
        """Do without a tier that would be late: the best answer so far, a lower tier, or none.

        Returns:
            The rows that now wait for a lower tier.
        """
        expected_s = self._pace.expect_s(tier, len(group.rows), self._lines[tier].waiting)
        return go_lower(tier, group, 1e3 * expected_s)

    def begin(self, tier: int, *, wait: bool = False) -> Call | None:
        """Take and start a worker's next call.

        Args:
            tier: Index of the tier.
            wait: Until there is one, or the end has come.

        Returns:
            None when there is none.
        """
        line = self._lines[tier]
        while (call := line.take(wait=wait)) is not None:
            if call.started:
                return call
            groups = [kept for one in call.groups if (kept := self._kept(tier, one)) is not None]
            if groups and line.start(call, groups, self._clock()):
                self._watch.at(call.due_s(self._timeout_s))
                return call
            line.end(call, None, self._clock())
            for group in groups:
                self._go_on(tier, group, self._without, self._left_alone(tier))
        return None

    def outcome(self, tier: int, call: Call) -> Outcome:
        """Run a call; this is what may hang."""
        return self._outcome(tier, call.groups)

    def finish(self, tier: int, call: Call, outcome: Outcome) -> None:
        """Pass on the rows that a call still has to answer for."""
        line = self._lines[tier]
        if call.answered is not None and line.deliver(call, outcome):
            return
        parts = line.end(call, outcome, self._clock())
        if outcome.error is not None:
            self._let_go_waiting(tier)
        for group, place in parts:
            self._go_on(tier, group, settle, place, outcome, self._on_failure)

    def look(self) -> float:
        """Let go of rows whose time is over, and of calls that take too long.

        Returns:
            The next moment at which there may be some.
        """
        now_s = self._clock()
        for tier, line in enumerate(self._lines):
            for group in line.pull_late(now_s):
                self._go_on(tier, group, cut_short)
            for group in line.pull_stuck(now_s):
                self._go_on(tier, group, self._without, line.error)
        return min(line.due_s() for line in self._lines)

    def close(self) -> None:
        """Let the workers finish what waits, lowest tier first, and end them.

        A call that hangs is not waited for; its rows were let go when it took too long.
        """
        for line, threads in zip(self._lines, self._threads, strict=True):
            line.close()
            while sum(thread.is_alive() for thread in threads) > line.hanging:
                for thread in threads:
                    thread.join(_LOOK_AGAIN_S)
        self._watch.close()
        for line in self._lines:
            line.retire()

    def _work(self, tier: int) -> None:
        while True:
            try:
                if (call := self.begin(tier, wait=True)) is None:
                    return
                self.finish(tier, call, self.outcome(tier, call))
            except Exception:  # noqa: BLE001  # a worker that dies leaves later rows hanging
                _log.exception("tier %d: fault in the router", tier)

    def _outcome(self, tier: int, groups: Sequence[Group]) -> Outcome:
        start_s = self._clock()
        try:
            inputs = stack([group.inputs for group in groups])
            outcome = outcome_of(self._runs[tier], inputs, groups[0].walk.policy.n_classes)
        except Exception:  # noqa: BLE001  # such as no memory; a call always ends with an outcome
            return Outcome(None, _fault(tier))
        if outcome.error is None:
            self._pace.took(tier, len(inputs), self._clock() - start_s)
        return outcome

    def _without(self, tier: int, group: Group, error: CascadeError) -> list[Group]:
        return go_without(tier, group, error, self._on_failure)

    def _left_alone(self, tier: int) -> TierError:
        last = self._lines[tier].error
        return TierError(f"{last.message} (left alone for a while)", hint=last.hint)

    def _queue(self, tier: int, group: Group) -> None:
        """Let rows wait for a tier, if it is used and they have the time."""
        line = self._lines[tier]
        if line.shut(self._clock()):
            self._send(self._without(tier, group, self._left_alone(tier)))
            return
        kept = self._in_time(tier, group, line.waiting)
        if kept is None:
            return
        if not line.put(kept):
            why = f"queue full, {line.max_waiting} rows may wait"
            message = f"tier {tier}: {'the router is being unloaded' if line.closed else why}"
            error = BusyError(message, hint="try again later, or send less")
            refuse(kept, error)
            return
        self._watch.at(kept.due_s)
        self._let_go_waiting(tier)  # if the tier was left alone just now

    def _let_go_waiting(self, tier: int) -> None:
        """Do not keep rows waiting for a tier that is left alone."""
        line = self._lines[tier]
        if line.open:
            for group in line.drain(self._clock()):
                self._go_on(tier, group, self._without, self._left_alone(tier))

    def _in_time(self, tier: int, group: Group, n_waiting: int = 0) -> Group | None:
        """Let go of rows that the tier would answer too late; returns the others."""
        late = self.late(tier, group, n_waiting)
        if late is None:
            return group
        over, kept = group.split(late)
        assert over is not None
        self._send(self.let_go(tier, over))
        return kept

    def _kept(self, tier: int, group: Group) -> Group | None:
        """Do as ``_in_time``; a fault of ours ends the group, and takes no worker from its call."""
        try:
            return self._in_time(tier, group)
        except Exception:  # noqa: BLE001  # the groups after it have no part in it
            refuse(group, _fault(tier))
            return None

    def _go_on(
        self, tier: int, group: Group, fate: Callable[..., Sequence[Group]], *more: Any
    ) -> None:
        """Pass on what a fate leaves of a group; a fault of ours ends its rows, and no others."""
        try:
            self._send(fate(tier, group, *more))
        except Exception:  # noqa: BLE001  # the groups after it have no part in it
            refuse(group, _fault(tier))

    def _send(self, groups: Sequence[Group]) -> None:
        for group in groups:
            self.send(group)


def _fault(tier: int) -> TierError:
    """Log the exception under way, and make the error that stands for it."""
    _log.exception("tier %d: fault in the router", tier)
    return TierError("fault in the router, see the server's log")
