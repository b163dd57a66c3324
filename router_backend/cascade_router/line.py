"""One tier as the router sees it: what waits for it, what runs, and whether it is left alone.

All rows in here belong to the line, and whoever takes them out has them alone, so that a late
answer, a deadline and a failure that come at once cannot report a row twice. Nothing here waits for
a tier or tells an observer; that is done by those who take rows out, without the lock.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from .breaker import DEAD_S, MOST_S, Breaker
from .call import Call, Part
from .errors import BusyError, DeadError, TierError
from .group import Group
from .outcome import Outcome

__all__ = ["Health", "Line"]

_SLOW = 3.0
"""A tier that is flooded answers its calls late and one after the other; one that hangs, none. So
calls are waited for up to this many times what the last one took that was answered, and up to this
many times the timeout."""


class Health(Protocol):
    """Is told how a tier fares; called from any thread, must not wait."""

    def tier_failed(self, tier: int, reason: str) -> None:
        """A call failed: ``error`` or ``timeout``."""

    def tier_open(self, tier: int, is_open: bool) -> None:
        """The tier is left alone from now on, or is no longer."""


class Line:
    """The queue of one tier and its calls.

    Args:
        tier: Its index, for ``health``.
        max_batch: Most rows that one call may hold.
        max_waiting: Most rows that may wait.
        workers: Calls that may be under way at the same time; one that hangs counts.
        timeout_s: A call that takes longer has failed, unless the others are slow, too.
        health: Told of failures.

    Attributes:
        waiting: Rows that wait.
        error: Why the last call failed.
        closed: It takes in nothing more.
    """

    def __init__(
        self,
        tier: int,
        *,
        max_batch: int,
        max_waiting: int,
        workers: int,
        timeout_s: float,
        health: Health | None,
    ) -> None:
        self.waiting = 0
        self.max_waiting = max_waiting
        self.error = TierError(f"tier {tier} failed")
        self._tier = tier
        self._max_batch = max_batch
        self._workers = workers
        self._timeout_s = timeout_s
        self._took_s = 0.0
        self._health = health
        self._breaker = Breaker()
        self._groups: deque[Group] = deque()
        self._lent: deque[Call] = deque()
        self._calls: set[Call] = set()
        self.closed = False
        self._changed = threading.Condition()

    @property
    def open(self) -> bool:
        """The tier is left alone, but for a trial now and then."""
        return self._breaker.open

    @property
    def hanging(self) -> int:
        """Calls that took too long and have not come back."""
        with self._changed:
            return sum(call.over for call in self._calls)

    def shut(self, now_s: float) -> bool:
        """Say whether rows that come now need not wait: no call would run them."""
        if not self._breaker.open:
            return False
        with self._changed:
            return self._shut(now_s)

    def put(self, group: Group) -> bool:
        """Let rows wait; False when that were too many, or the end has come.

        Where none waits there is always room for one batch, however low the bound is.
        """
        with self._changed:
            most = max(self.max_waiting, len(group.rows))
            if self.closed or self.waiting + len(group.rows) > most:
                return False
            self._groups.append(group)
            self.waiting += len(group.rows)
            self._changed.notify()
        return True

    def take(self, *, wait: bool = True) -> Call | None:
        """Take a worker's next call: a lent one, else as many rows as fit, not started yet.

        Args:
            wait: For one; else None when there is none.

        Returns:
            None once closed and drained.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(self._may_take)
            if self._lent:
                return self._lent.popleft()
            if not self._groups or self._busy():
                return None
            call = Call(self._next_groups())
            self._calls.add(call)
            return call

    def _busy(self) -> bool:
        """Say whether no worker is free; a lent call keeps its worker until its lender ends it."""
        return len(self._calls) >= self._workers

    def _may_take(self) -> bool:
        more = bool(self._groups)
        return bool(self._lent) or (more and not self._busy()) or (self.closed and not more)

    def _next_groups(self) -> list[Group]:
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

    def lend(self, group: Group, now_s: float) -> Call | None:
        """Start a call for somebody who waits for it; None when that would not start at once."""
        with self._changed:
            if self._groups or self._busy() or self.closed:
                return None
            answered = threading.Lock()
            answered.acquire()
            call = Call([group], lender=True, answered=answered)
            if not self._start(call, call.groups, now_s):
                return None
            self._calls.add(call)
            self._lent.append(call)
            self._changed.notify()
            return call

    def start(self, call: Call, groups: Sequence[Group], now_s: float) -> bool:
        """Start a call with what is left of its groups; from now on it is watched.

        Returns:
            False when the tier is left alone; the rows are still the caller's.
        """
        with self._changed:
            return self._start(call, groups, now_s)

    def admit(self, now_s: float) -> bool:
        """Say whether a tier that is left alone may be tried now, by a call without a worker."""
        with self._changed:
            if self._breaker.shut(now_s):
                return False
            self._breaker.try_it()
            return True

    def deliver(self, call: Call, outcome: Outcome) -> bool:
        """Hand the outcome to the lender; False when nobody waits: the worker goes on with it."""
        with self._changed:
            if call.lender and call.answered is not None:
                call.outcome = outcome
                call.answered.release()
            return call.lender

    def leave(self, call: Call) -> Outcome | None:
        """Wait no longer: from now on the call is watched, and its worker settles the rows.

        Returns:
            The outcome, where it came just now; then it is still the lender's.
        """
        with self._changed:
            call.lender = call.outcome is not None
            return call.outcome

    def end(self, call: Call, outcome: Outcome | None, now_s: float) -> list[Part]:
        """End a call, with None as outcome when it never ran.

        Returns:
            The rows it still has to answer for; they are the caller's now.
        """
        with self._changed:
            self._calls.discard(call)
            if self._groups:
                self._changed.notify()
            if call.over:
                self._breaker.retry(trial=False)
            elif outcome is not None:
                self._judge(outcome, call.start_s, now_s, trial=call.trial)
                if outcome.error is None:
                    self._took_s = now_s - call.start_s
            parts, call.parts = call.parts, []
            return parts

    def judge(self, outcome: Outcome, began_s: float, now_s: float, *, trial: bool) -> None:
        """Take note of how a call without a worker fared."""
        with self._changed:
            self._judge(outcome, began_s, now_s, trial=trial)

    def pull_late(self, now_s: float) -> list[Group]:
        """Take out the rows whose time is over, wherever they wait or hang."""
        late: list[Group] = []
        with self._changed:
            if any(group.due_s <= now_s for group in self._groups):
                kept = [group.in_time(now_s, late) for group in self._groups]
                self._groups = deque(group for group in kept if group is not None)
                self.waiting = sum(len(group.rows) for group in self._groups)
            for call in self._watched():
                call.pull_late(now_s, late)
        return late

    def pull_stuck(self, now_s: float) -> list[Group]:
        """Take the rows out of calls that took too long, and of the queue if none would run it."""
        stuck: list[Group] = []
        with self._changed:
            patience_s = self._patience_s()
            for call in self._watched():
                if not call.over and call.start_s + patience_s <= now_s:
                    call.over = True
                    stuck += call.pull_all()
                    ms = 1e3 * patience_s
                    message = f"tier {self._tier}: no answer within {ms:.0f} ms"
                    hint = "`cascade-client status` shows which model is down"
                    self._failed(
                        TierError(message, hint=hint), "timeout", call.start_s, now_s, call.trial
                    )
            return stuck + self._drained(now_s)

    def drain(self, now_s: float) -> list[Group]:
        """Take what waits, if the tier is left alone."""
        with self._changed:
            return self._drained(now_s)

    def due_s(self) -> float:
        """Say the next moment at which rows are late or a call has taken too long."""
        with self._changed:
            moments = [group.due_s for group in self._groups]
            patience_s = self._patience_s()
            moments += [call.due_s(patience_s) for call in self._watched()]
            return min(moments, default=math.inf)

    def close(self) -> None:
        """Take in nothing more; ``take`` ends when nothing waits."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def retire(self) -> None:
        """Tell that nobody leaves the tier alone any more: the router ends."""
        with self._changed:
            if self._breaker.open and self._health is not None:
                self._health.tier_open(self._tier, False)

    def _patience_s(self) -> float:
        """Say how long a call may take."""
        return max(self._timeout_s, _SLOW * min(self._took_s, self._timeout_s))

    def _watched(self) -> list[Call]:
        return [call for call in self._calls if not call.lender]

    def _shut(self, now_s: float) -> bool:
        return self._breaker.shut(now_s) or (self._breaker.open and self._busy())

    def _start(self, call: Call, groups: Sequence[Group], now_s: float) -> bool:
        if self._breaker.open:
            if self._breaker.shut(now_s):
                return False
            self._breaker.try_it()
            call.trial = True
        # The clock was read before the lock was there: what the tier did meanwhile came before.
        call.start(groups, max(now_s, self._breaker.changed_s))
        return True

    def _judge(self, outcome: Outcome, began_s: float, now_s: float, *, trial: bool) -> None:
        match outcome.error:
            case TierError() as error:
                self._failed(error, "error", began_s, now_s, trial)
            case BusyError() if trial:
                self._breaker.retry(trial=True)
            case _ if trial and self._breaker.open:
                self._breaker.succeeded(now_s)
                self._tell()
            case _:
                pass

    def _failed(
        self, error: TierError, reason: str, began_s: float, now_s: float, trial: bool
    ) -> None:
        self.error = error
        was_open = self._breaker.open
        most_s = DEAD_S if isinstance(error, DeadError) else MOST_S
        self._breaker.failed(now_s, began_s, trial=trial, most_s=most_s)
        if self._health is not None:
            self._health.tier_failed(self._tier, reason)
        if self._breaker.open != was_open:
            self._tell()

    def _tell(self) -> None:
        if self._health is not None:
            self._health.tier_open(self._tier, self._breaker.open)

    def _drained(self, now_s: float) -> list[Group]:
        if not self._shut(now_s):
            return []
        waiting = list(self._groups)
        self._groups.clear()
        self.waiting = 0
        return waiting
