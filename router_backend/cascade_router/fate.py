"""What becomes of rows at a tier: each function reports those that end there, returns the others.

The rows must be the caller's (see ``Group``). Shapes: n rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BusyError, CascadeError, TierError
from .group import Group
from .outcome import Outcome

__all__ = ["cut_short", "go_lower", "go_without", "refuse", "settle"]


def settle(tier: int, group: Group, place: Any, outcome: Outcome, how: str) -> list[Group]:
    """Bring what came of a call to a group's walk.

    Args:
        tier: Index of the tier.
        group: n rows it was called for.
        place: Where they are in the outcome, a slice or (n,) int.
        outcome: What came of the call.
        how: One of ``ON_TIER_FAILURE``.

    Returns:
        Rows that are decided or wait for a tier.
    """
    if outcome.logits is None:
        return _not_run(tier, group, outcome.error, how)
    logits = outcome.logits[place]
    bad: Group | None = None
    good: Group | None = group
    if outcome.failed is not None:
        failed = outcome.failed[place]
        bad, good = group.split(failed)
        logits = logits[~failed]
    passed = [] if bad is None else _not_run(tier, bad, outcome.error, how)
    if good is not None:
        scores = good.walk.settle(tier, good.rows, logits)
        good.observer.ran(tier, good.rows, scores)
        passed.append(good)
    return passed


def _not_run(tier: int, group: Group, error: CascadeError | None, how: str) -> list[Group]:
    assert error is not None
    if isinstance(error, TierError):
        return go_without(tier, group, error, how)
    refuse(group, error)
    return []


def go_without(tier: int, group: Group, error: CascadeError, how: str) -> list[Group]:
    """Go on without a tier that failed by ``error``, as ``how`` of ``ON_TIER_FAILURE`` says."""
    return _kept(group, group.walk.do_without(tier, group.rows, how), error)


def go_lower(tier: int, group: Group, expected_ms: float) -> list[Group]:
    """Go on without a tier that is too slow: by the best answer so far, or at a lower tier."""
    answered, fresh = group.split(group.walk.exit_tier[group.rows] >= 0)
    if answered is not None:
        answered.walk.cut_short(answered.rows)
        answered.observer.report(answered.rows, None)
    if fresh is None:
        return []
    message = f"cascade_deadline_ms: tier {tier} is expected to take {expected_ms:.0f} ms"
    error = BusyError(message, hint="allow more time or a lower cascade_min_tier")
    return _kept(fresh, fresh.walk.lower(tier, fresh.rows), error)


def cut_short(tier: int, group: Group) -> list[Group]:
    """End rows whose time is over at a tier, by the best answer so far where there is one."""
    message = f"cascade_deadline_ms: over before tier {tier} had answered"
    error = BusyError(message, hint="allow more time or a lower cascade_min_tier")
    return _kept(group, group.walk.cut_short(group.rows), error)


def refuse(group: Group, error: CascadeError) -> None:
    """End rows without an answer, whatever they have."""
    group.walk.stop(group.rows)
    group.observer.report(group.rows, error)


def _kept(group: Group, lost: npt.NDArray[np.bool_], error: CascadeError) -> list[Group]:
    gone, kept = group.split(lost)
    if gone is not None:
        gone.observer.report(gone.rows, error)
    return [] if kept is None else [kept]
