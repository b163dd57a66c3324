"""What a tier costs per row at the batch size it really sees.

Survivors are fewer than the rows that came in, so the batch a tier sees is the batch that arrives
times the share of rows that reach it, and its cost per row rises as that share falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascade_router.errors import RecordsError
from cascade_router.policy import Tier
from cascade_router.scores import Floats

__all__ = ["Costs"]


@dataclass(frozen=True, slots=True)
class Costs:
    """Cost tables of all tiers, and the batch that arrives.

    Attributes:
        batch: Mean rows per batch that arrives at the cascade, > 0.
        log_sizes: Per tier, (S,) log of the measured batch sizes, ascending.
        per_row_ms: Per tier, (S,) milliseconds per row at those.
    """

    batch: float
    log_sizes: tuple[Floats, ...]
    per_row_ms: tuple[Floats, ...]

    @classmethod
    def of(cls, tiers: Sequence[Tier], batch: float) -> Costs:
        """Read the tiers' tables.

        Raises:
            RecordsError: If a tier's cost was never measured.
        """
        for tier in tiers:
            if not tier.cost_ms:
                message = f"records: tier {tier.name!r} has no measured cost"
                raise RecordsError(message, hint="run `cascade-builder record`")
        sizes = [sorted(tier.cost_ms) for tier in tiers]
        rows = [
            np.array([t.cost_ms[size] / size for size in s])
            for t, s in zip(tiers, sizes, strict=True)
        ]
        return cls(batch, tuple(np.log(np.array(s, dtype=float)) for s in sizes), tuple(rows))

    def spent(self, tier: int, reach: Floats) -> Floats:
        """Give the mean milliseconds this tier adds to every arriving row.

        Args:
            tier: Index of the tier.
            reach: (...,) float, share of rows that reach it.

        Returns:
            (...,) float64: reach x cost per row at ``batch x reach``, as
            ``Tier.cost_per_row_ms`` interpolates it.
        """
        if len(self.per_row_ms[tier]) == 1:
            return np.asarray(reach * self.per_row_ms[tier][0])
        seen = np.log(np.maximum(self.batch * reach, 1e-9))
        return np.asarray(reach * np.interp(seen, self.log_sizes[tier], self.per_row_ms[tier]))

    def per_row(self, tier: int, reach: float = 1.0) -> float:
        """Give the milliseconds of one row at this tier when this share of rows reaches it."""
        return float(self.spent(tier, np.array(reach))) / reach if reach > 0 else 0.0

    def alone(self, tier: int) -> float:
        """Give the milliseconds per row of this tier answering every row."""
        return float(self.spent(tier, np.array(1.0)))
