"""Whether a tier is used, or left alone for a while because it failed."""

from __future__ import annotations

import math

__all__ = ["DEAD_S", "FIRST_S", "MOST_S", "Breaker"]

FIRST_S = 0.5
"""How long a tier is left alone after its first failure, in seconds."""

MOST_S = 30.0
"""The longest that a tier is left alone between two trials."""

DEAD_S = 2.0
"""The longest where the tier is down: it is loaded anew within seconds, which a trial shows."""


class Breaker:
    """Opens when a tier fails, and lets one call try it after growing intervals.

    Closed: the tier is used. Open: it is left alone until the interval is over; then one call is
    the trial. If that succeeds the breaker closes, else the interval doubles, up to ``MOST_S``.
    Moments are seconds of any one monotonic clock. Not thread-safe: a ``Line`` locks it.

    Attributes:
        open: The tier is left alone.
        changed_s: When it last opened or closed.
    """

    def __init__(self) -> None:
        self.open = False
        self._trying = False
        self._interval_s = FIRST_S
        self._until_s = -math.inf
        self.changed_s = -math.inf

    def shut(self, now_s: float) -> bool:
        """Say whether no call may begin now."""
        return self.open and (self._trying or now_s < self._until_s)

    def try_it(self) -> None:
        """Note that the trial begins, if it is open."""
        self._trying = self.open

    def failed(self, now_s: float, began_s: float, *, trial: bool, most_s: float = MOST_S) -> None:
        """Note that a call failed; the tier is left alone for ``most_s`` at most.

        What began before the breaker last opened or closed says nothing new, unless it is the
        trial.
        """
        if not trial and (self.open or began_s < self.changed_s):
            return
        self._interval_s = min(2 * self._interval_s, most_s) if self.open else FIRST_S
        self._until_s = now_s + self._interval_s
        self._move(now_s, is_open=True)

    def succeeded(self, now_s: float) -> None:
        """Note that the trial succeeded."""
        self._move(now_s, is_open=False)

    def retry(self, *, trial: bool) -> None:
        """Let the next call be a trial: the last one said nothing, or a late one came back."""
        self._until_s = -math.inf
        self._trying = self._trying and not trial

    def _move(self, now_s: float, *, is_open: bool) -> None:
        if self.open != is_open:
            self.changed_s = now_s
        self.open, self._trying = is_open, False
