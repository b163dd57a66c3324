"""Records of experts that never were: rows of known difficulty, tiers of rising skill."""

import numpy as np

from cascade_builder.cost_tables import Costs
from cascade_builder.records import Records, TierRecord
from cascade_router.policy import Tier

COSTS = [1.0, 4.0, 20.0, 45.0, 100.0, 210.0]
"""Milliseconds per row of up to six tiers."""


def records(
    n=400, n_tiers=3, n_classes=4, seed=0, labels=True, activation="softmax", tables=None, skill=0.9
):
    """Draw rows; a row's difficulty is shared by the tiers, their noise is not."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    ease = rng.normal(1.2, 1.2, n)
    tiers = []
    for k in range(n_tiers):
        z = rng.normal(0, 0.8, (n, n_classes))
        z[np.arange(n), truth] += 1.5 * ease + skill * k
        table = {1: COSTS[k]} if tables is None else tables[k]
        tiers.append(
            TierRecord(
                name=f"tier{k}",
                model=f"made_up_tier{k}",
                digest=f"sha256:{k}",
                logits=z.astype(np.float32),
                cost_ms=table,
            )
        )
    return Records(
        cascade="made_up",
        activation=activation,
        n_classes=n_classes,
        tiers=tuple(tiers),
        ids=np.arange(n),
        labels=truth if labels else None,
    )


def tiers_of(made):
    """Give the policy tiers of records."""
    return [
        Tier(name=t.name, model=t.model, digest=t.digest, cost_ms=t.cost_ms) for t in made.tiers
    ]


def costs_of(made, batch=1.0):
    """Give the cost tables of records."""
    return Costs.of(tiers_of(made), batch)
