"""What each tier did between two looks at the server's own counters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from cascade_router.policy import Policy

from .calls import Counts, Parameters

__all__ = ["TierFigures", "first_tier", "tier_figures"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TierFigures:
    """What one tier did. Nothing to say: NaN.

    Attributes:
        tier: Name of the expert.
        reached: Share of the rows that reached it, 0 to 1.
        mean_batch: Rows it ran together.
        queue_ms: Mean wait of a call before it ran; the rows of one call wait together.
        compute_ms: Per row, at the batches it saw. Where the tier runs in the router's process
            this is the router's time, the tier's and its own.
    """

    tier: str
    reached: float
    mean_batch: float
    queue_ms: float
    compute_ms: float


def tier_figures(
    policy: Policy,
    parameters: Parameters,
    before: Mapping[str, Counts],
    after: Mapping[str, Counts],
) -> tuple[TierFigures, ...]:
    """Take the differences of the counters.

    Args:
        policy: Names the tiers.
        parameters: Sent with every request between the looks.
        before: Counters of the ensemble, its router and every tier, by model.
        after: The same, later.

    Returns:
        One per tier, cheapest first.
    """
    models = [policy.cascade, f"{policy.cascade}_router", *(tier.model for tier in policy.tiers)]
    whole, router, *own = (_Between(before[model], after[model]) for model in models)
    first = first_tier(policy, parameters)
    # Every row reaches the first tier. If its model saw none, it runs in the router's process.
    inside = whole.rows > 0 and own[first].rows == 0
    out = []
    for k, tier in enumerate(policy.tiers):
        did = router if inside and k == first else own[k]
        out.append(
            TierFigures(
                tier=tier.name,
                reached=_over(did.rows, whole.rows),
                mean_batch=_over(did.rows, did.batches),
                queue_ms=_over(did.queue_ms, did.calls),
                compute_ms=_over(did.compute_ms, did.rows),
            )
        )
    return tuple(out)


def first_tier(policy: Policy, parameters: Parameters) -> int:
    """Say which tier a request with these parameters goes to first."""
    low = int(parameters.get("cascade_min_tier", 0))
    high = int(parameters.get("cascade_max_tier", len(policy.tiers) - 1))
    name = str(parameters.get("cascade_point", policy.default))
    gates = policy.points[policy.index(name)].gates
    return next((k for k in range(low, high + 1) if not gates[k].off), low)


class _Between:
    """The difference of two looks at one model."""

    def __init__(self, before: Counts, after: Counts) -> None:
        self.rows = after.rows - before.rows
        self.batches = after.batches - before.batches
        self.calls = after.calls - before.calls
        self.queue_ms = after.queue_ms - before.queue_ms
        self.compute_ms = after.compute_ms - before.compute_ms


def _over(part: float, whole: float) -> float:
    # A model that was loaded anew meanwhile counts from zero again.
    return part / whole if whole > 0 and part >= 0 else math.nan
