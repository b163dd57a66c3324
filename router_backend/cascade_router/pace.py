"""How long a tier takes until it has answered, by its measured cost and what waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from .policy import Tier

__all__ = ["Pace"]

_NEWEST = 0.2
"""Weight of the newest call in the running mean."""

_FRESH_S = 2.0
"""How long what calls took says what the next one takes. A tier that hung would else be thought
slow for good: rows that cannot wait for it are not sent there, so none would show that it is
back."""


class Pace:
    """Says when a tier would have answered rows that are handed to it now.

    The measured cost of ``policy.json`` is what a tier takes alone; under load its calls share the
    machine. So calls are timed, and the slower of the two is expected.

    Attributes:
        tiers: K tiers, as the policy in force has them: a new one may bring other costs along. One
            without measured cost is expected to take what its calls took.

    Args:
        tiers: The same.
        workers: Calls of one tier that may be under way at the same time.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        tiers: Sequence[Tier],
        workers: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tiers = tiers
        self._workers = workers
        self._clock = clock
        self._row_ms = [0.0] * len(tiers)
        self._seen_s = [-math.inf] * len(tiers)

    def took(self, tier: int, n_rows: int, seconds: float) -> None:
        """Note a call. Two threads may do so at once: one of two updates may get lost."""
        row_ms = 1e3 * seconds / n_rows
        before = self._seen(tier)
        self._seen_s[tier] = self._clock()
        self._row_ms[tier] = before + _NEWEST * (row_ms - before) if before else row_ms

    def expect_s(self, tier: int, n_rows: int, n_waiting: int = 0) -> float:
        """Say how many seconds pass until the tier has answered.

        Args:
            tier: Index of the tier.
            n_rows: Rows handed to it, above 0.
            n_waiting: Rows that wait for it already.
        """
        expert = self.tiers[tier]
        measured = expert.cost_per_row_ms(n_rows) if expert.cost_ms else 0.0
        row_ms = max(measured, self._seen(tier))
        return 1e-3 * row_ms * (n_rows + n_waiting / self._workers)

    def _seen(self, tier: int) -> float:
        """Say what a row took lately, in ms; 0: nothing is known."""
        fresh = self._clock() - self._seen_s[tier] <= _FRESH_S
        return self._row_ms[tier] if fresh else 0.0
