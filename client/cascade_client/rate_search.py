"""The highest rate that meets a latency target, found by halving.

A latency measured under load is noisy, and the highest of several lucky measurements would
promise too much. So the rate that the halving ends at is measured once more, longer, and given
up for a lower one where it then misses.
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["CHECKS", "highest_rate", "most_steps"]

CHECKS = 4
"""Rates that are checked at the end, each lower by the tolerance, before none is promised."""


def highest_rate(
    meets: Callable[[float], bool],
    holds: Callable[[float], bool],
    low: float,
    high: float,
    tolerance: float,
) -> float | None:
    """Search between two rates.

    Args:
        meets: Measures a rate and says whether the target is met there.
        holds: The same, more precisely; asked of the rate that is found.
        low: Lowest rate that is tried.
        high: Highest rate that is tried; above ``low``.
        tolerance: The search ends where the lowest rate known to miss is at most this share
            above the highest known to meet.

    Returns:
        A rate that holds; None: not even ``low`` does.
    """
    if not meets(low):
        return None
    best, missed = (high, None) if meets(high) else (low, high)
    while missed is not None and missed > best * (1 + tolerance):
        # Half way by ratio; rates with three digits can be read and asked for again.
        middle = float(f"{math.sqrt(best * missed):.3g}")
        if not best < middle < missed:
            break
        best, missed = (middle, missed) if meets(middle) else (best, middle)
    for _ in range(CHECKS):
        if holds(best):
            return best
        if best <= low:
            return None
        best = max(low, float(f"{best / (1 + tolerance):.3g}"))
    return None


def most_steps(low: float, high: float, tolerance: float) -> int:
    """Bound the measurements that `highest_rate` makes."""
    halvings = math.log2(max(math.log(high / low) / math.log1p(tolerance), 1))
    return 2 + math.ceil(halvings) + CHECKS
