"""What is known of one model's health, and when it is time to revive it: no I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .triton import Outcome, Reply

__all__ = ["Health", "Patience", "State"]


class State(Enum):
    """Of a model."""

    SERVING = "serving"
    UNCHECKED = "loaded, not checked"
    """No canary can be made, or none was ever answered: a foreign model may want other rows."""
    SICK = "sick"
    REVIVING = "reviving"
    UNLOADED = "unloaded"
    """By someone else, who will have had a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a model may fail before it is loaded anew, and between tries. Seconds.

    Attributes:
        dead_s: Its server says that its process is dead, which cannot be seen from here.
        silent_s: It does not answer and has done nothing; on a machine in a flood that may be so
            for a while.
        slow_s: The same of one that never answered in time: it may need long for each row.
        failing_s: It answers, with errors: loading it anew may help, or not.
        first_pause_s: After a try; doubled each time.
        longest_pause_s: And at most this, while it cannot be loaded.
        revived_pause_s: At most this after a load that succeeds: what dies again serves in between.
        well_s: Served so long, the pauses begin anew.
    """

    dead_s: float = 6.0
    silent_s: float = 20.0
    slow_s: float = 180.0
    failing_s: float = 30.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    revived_pause_s: float = 4.0
    well_s: float = 60.0


@dataclass(slots=True)
class Health:
    """One model.

    Args:
        model: Its name.
        patience: How long is waited for what.
    """

    model: str
    patience: Patience
    state: State = State.UNCHECKED
    why: str = ""
    since: float = 0.0
    revivals: int = 0
    _proven: bool = False
    _lost: bool = False
    _certain: bool = False
    _failures: int = 0
    _bad_since: float = 0.0
    _wait_s: float = 0.0
    _revived: int = 0
    _failed_loads: int = 0
    _next_try: float = 0.0
    _ours: bool = False
    _accused_until: float = 0.0

    def observe(self, reply: Reply, *, own: bool, works: bool, now: float) -> None:
        """Take in how a canary fared.

        Args:
            reply: Its reply.
            own: Whether a failure is this model's own, not that of one it calls.
            works: Whether the model has run anything since the last look: late is then busy.
            now: Seconds.
        """
        self._ours = False
        match reply.outcome:
            case Outcome.ANSWERED:
                self._well(now)
                self._proven = True
            case Outcome.BUSY:
                self._well(now)
            case Outcome.LATE if works:
                self._well(now)
            case Outcome.FAILED if not self._proven:
                self._blame(State.UNCHECKED, reply.why, now)
            case _ if not own:
                self._blame(State.SICK, reply.why, now)
            case Outcome.FAILED:
                self._fail(reply.why, self.patience.failing_s, now, certain=False)
            case Outcome.LATE:
                wait_s = self.patience.silent_s if self._proven else self.patience.slow_s
                self._fail(reply.why, wait_s, now, certain=False)
            case _:
                # Of several processes one is dead: what the others answer meanwhile clears nothing.
                self._accused_until = now + 2 * self.patience.dead_s
                self._fail(reply.why, self.patience.dead_s, now)

    def loaded(self, now: float) -> None:
        """It is loaded, and no canary can be made for it."""
        self._ours = False
        if self.state is not State.SERVING:
            self._blame(State.UNCHECKED, "", now)

    def renewed(self) -> None:
        """Another version or configuration is loaded: that the old one answered proves nothing."""
        self._proven = False

    def lost(self, why: str, now: float) -> None:
        """One of its processes is gone for certain: no answer of another clears that."""
        self._lost = True
        if self._failures == 0:
            self._bad_since = now
        self._failures = max(self._failures, 2)
        self._wait_s = 0.0
        self._certain = True
        self._turn(State.SICK, why, now)

    def gone(self, why: str, now: float, *, loading: bool = False) -> None:
        """It is not loaded: on purpose, or because a load failed.

        Args:
            why: What the load failed for; empty: it did not.
            now: Seconds.
            loading: Whether it is being loaded.
        """
        if loading and self._ours:
            # Longer than we wait for: to unload it now would be to begin again, for ever.
            self._lost = False
            self._failures, self._accused_until = 0, 0.0
            self._turn(State.REVIVING, "is being loaded", now)
        elif why:
            self._ours = False
            self._fail(why, self.patience.dead_s, now)
        elif self._ours:
            # Unloaded by ourselves, and refused before a load began: the server knows no other why.
            self._fail(self.why or "its load failed", self.patience.dead_s, now)
        else:
            self._forget()
            self._turn(State.UNLOADED, "", now)

    def due(self, now: float) -> bool:
        """Say whether it is to be loaded anew now."""
        return (
            self.state is State.SICK
            and self._failures >= 2
            and now - self._bad_since >= self._wait_s
            and now >= self._next_try
        )

    @property
    def certain(self) -> bool:
        """Whether what is known against it is its own: silence may be that of one it calls."""
        return self._certain

    @property
    def well(self) -> bool:
        """Whether nothing is known against it."""
        return self.state in (State.SERVING, State.UNCHECKED)

    def begin(self, now: float) -> None:
        """It is being loaded anew, for which it is unloaded."""
        self._ours = True
        self._turn(State.REVIVING, self.why, now)

    def end(self, fault: str | None, now: float) -> None:
        """It was loaded anew.

        Args:
            fault: What went wrong; None: nothing, and the next canary decides.
            now: Seconds.
        """
        p = self.patience
        if fault is None:
            self._next_try = now + _pause(p.first_pause_s, self._revived, p.revived_pause_s)
            self._revived, self._failed_loads = self._revived + 1, 0
            self.revivals += 1
            self._lost = self._ours = False
            self._failures, self._accused_until = 0, 0.0
            self._turn(State.REVIVING, "loaded anew", now)
        else:
            self._next_try = now + _pause(p.first_pause_s, self._failed_loads, p.longest_pause_s)
            self._failed_loads += 1
            self._failures = max(self._failures, 2)
            self._wait_s = 0.0
            self._certain = True
            self._turn(State.SICK, fault, now)

    def _well(self, now: float) -> None:
        if self._lost or now < self._accused_until:
            return
        self._failures = 0
        self._turn(State.SERVING, "", now)
        if now - self.since >= self.patience.well_s:
            self._revived = 0

    def _fail(self, why: str, wait_s: float, now: float, *, certain: bool = True) -> None:
        if self._failures == 0:
            self._bad_since, self._wait_s, self._certain = now, wait_s, False
        self._failures += 1
        self._certain = self._certain or certain
        self._wait_s = min(self._wait_s, wait_s)
        self._turn(State.SICK, why, now)

    def _blame(self, state: State, why: str, now: float) -> None:
        """Another model is at fault, or nobody: this one is not revived for it."""
        if self._lost or now < self._accused_until:
            return
        self._failures = 0
        self._turn(state, why, now)

    def _forget(self) -> None:
        self._failures = self._revived = self._failed_loads = 0
        self._proven = self._lost = False
        self._accused_until = 0.0

    def _turn(self, state: State, why: str, now: float) -> None:
        if state is not self.state:
            self.since = now
        self.state, self.why = state, why


def _pause(first_s: float, before: int, longest_s: float) -> float:
    return min(first_s * 2.0 ** min(before, 30), longest_s)
