"""The frontier beyond four tiers: one gate at a time, each step exact.

For a price per millisecond, the best threshold of one gate given all others follows from sorting
the rows that reach it by score and adding up what each gains by leaving here. Cycling through the
gates climbs to a point no single gate can improve; prices are swept and starts are several.
Shapes: n rows, K tiers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_router.gate import Gate
from cascade_router.scores import Floats

from .cost_tables import Costs
from .replay import View, gates_from

__all__ = ["Climbed", "ascend"]

Bools = npt.NDArray[np.bool_]

_ROUNDS = 12
_PRICES = 24
_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """One point found.

    Attributes:
        gates: K gates.
        right: Rows answered right.
        cost_ms: Mean milliseconds per row.
    """

    gates: tuple[Gate, ...]
    right: int
    cost_ms: float


def ascend(view: View, costs: Costs, seed: int = 0) -> Iterator[Climbed]:
    """Climb at a sweep of prices, from the neighbour's point and from random ones.

    Args:
        view: Rows under a reading that answers by the last tier.
        costs: Tables of all tiers.
        seed: Of the random starts.
    """
    n_tiers = view.scored.n_tiers
    scores = np.stack([view.score(k) for k in range(n_tiers)])
    right = np.stack([view.right([k]) for k in range(n_tiers)])
    top = np.array([np.max(s, where=np.isfinite(s), initial=0.0) + 1.0 for s in scores])
    rng = np.random.default_rng(seed)
    previous = top.copy()
    for price in np.geomspace(1e-3, 10.0, _PRICES) / max(costs.alone(n_tiers - 1), 1e-12):
        shares = rng.random((_STARTS - 1, n_tiers))
        starts = [previous, *(_at_shares(scores, share) for share in shares)]
        found = [_climb(scores, right, costs, price, start, top) for start in starts]
        previous = max(found, key=lambda f: f[0])[1]
        yield _measured(scores, right, costs, previous)


def _at_shares(scores: Floats, shares: Floats) -> Floats:
    """Give the thresholds that this share of each tier's scores lies under: (K,) float64."""
    known = [s[np.isfinite(s)] for s in scores]
    pairs = zip(known, shares, strict=True)
    return np.array([np.quantile(s, share) if len(s) else 0.0 for s, share in pairs])


def _climb(
    scores: Floats, right: Bools, costs: Costs, price: float, start: Floats, top: Floats
) -> tuple[float, Floats]:
    """Cycle through the gates until none moves; ``inf`` marks a tier that is off.

    Returns:
        The value per row and (K,) thresholds; the last tier's is not used.
    """
    n_tiers = len(scores)
    thresholds = start.copy()
    best, kept = -np.inf, start
    for _ in range(_ROUNDS):
        per_row = _per_row(scores, costs, thresholds)
        # Backwards: what a row is worth from tier k on, given the gates above.
        worth = right[-1] - price * per_row[-1]
        for k in range(n_tiers - 2, -1, -1):
            reached = _reach(scores, thresholds, k)
            thresholds[k] = _step(scores[k], right[k], worth, reached, price * per_row[k], top[k])
            if np.isfinite(thresholds[k]):
                leaves = scores[k] >= thresholds[k]
                worth = np.where(leaves, right[k], worth) - price * per_row[k]
        value = float(worth.mean())
        if value <= best + 1e-12:
            break
        best, kept = value, thresholds.copy()
    return best, kept


def _step(
    score: Floats, right: Bools, worth: Floats, reached: Bools, charge: float, top: float
) -> float:
    """Find the best threshold of one gate for the rows that reach it, or ``inf`` for off."""
    rows = np.flatnonzero(reached & np.isfinite(score))
    if not len(rows):
        return np.inf
    order = rows[np.argsort(-score[rows], kind="stable")]
    values = score[order]
    gain = np.concatenate(([0.0], np.cumsum(right[order] - worth[order])))
    # Only between distinct scores, or below all of them.
    cut = np.concatenate(([True], values[1:] < values[:-1], [True]))
    at = int(np.argmax(np.where(cut, gain, -np.inf)))
    if gain[at] <= charge * reached.sum():
        return np.inf
    if at == len(order):
        return float(values[-1]) - 1.0
    if at == 0:
        return top
    middle = (values[at] + values[at - 1]) / 2
    return float(middle if middle > values[at] else values[at - 1])


def _reach(scores: Floats, thresholds: Floats, tier: int) -> Bools:
    """Say which rows reach a tier: (n,) bool."""
    return np.asarray(~(scores[:tier] >= thresholds[:tier, None]).any(axis=0))


def _per_row(scores: Floats, costs: Costs, thresholds: Floats) -> list[float]:
    """Give every tier's milliseconds per row at the batch that these gates let it see."""
    shares = [float(_reach(scores, thresholds, k).mean()) for k in range(len(scores))]
    return [costs.per_row(k, max(share, 1e-6)) for k, share in enumerate(shares)]


def _measured(scores: Floats, right: Bools, costs: Costs, thresholds: Floats) -> Climbed:
    """Count what these gates do."""
    last = len(scores) - 1
    on = [k for k in range(last) if np.isfinite(thresholds[k])] + [last]
    gates = gates_from(on, thresholds[on[:-1]], len(scores))
    n_right, cost = 0, 0.0
    for k in on:
        reached = _reach(scores, thresholds, k)
        leaves = reached & (scores[k] >= thresholds[k]) if k < last else reached
        n_right += int(right[k][leaves].sum())
        cost += float(costs.spent(k, np.array(reached.mean())))
    return Climbed(gates=gates, right=n_right, cost_ms=cost)
