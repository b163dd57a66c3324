"""The frontier of a pool of experts: every sub-cascade's frontier, merged.

Shapes: K tiers, M points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cascade_router.gate import Gate
from cascade_router.scores import Floats

from .ascent import ascend
from .cost_tables import Costs
from .frontier import MAX_TIERS, cuts, edge_count, grid, grid_frontier, pareto, subsets
from .path import smooth_path
from .replay import View, gates_from

__all__ = [
    "EXACT",
    "PRICES",
    "SMOOTH",
    "Pool",
    "Search",
    "exact_pool",
    "merged",
    "shortlist",
    "smooth_pool",
]

Tiers = tuple[int, ...]

PRICES = np.geomspace(5e-4, 2.0, 96)
"""Prices of a smooth path: share of right answers that the last tier's cost is worth."""

SMOOTH, EXACT = "smooth path", "exact grid"
"""Kinds of search."""

_QUICK_EDGES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Points of all sub-cascades that none of the others beats, cheapest first.

    Attributes:
        gates: M times K gates.
        right: (M,) int64, rows answered right, strictly rising.
        cost_ms: (M,) float64, mean milliseconds per row, rising.
        rows: Rows they were computed on.
        reference: Rows that the last tier alone answers right.
    """

    gates: tuple[tuple[Gate, ...], ...]
    right: npt.NDArray[np.int64]
    cost_ms: Floats
    rows: int
    reference: int

    def __len__(self) -> int:
        """Count the points."""
        return len(self.gates)

    @property
    def drop(self) -> Floats:
        """(M,) float64, share of right answers lost against the last tier, on these rows."""
        return np.asarray((self.reference - self.right) / max(self.rows, 1))

    def cheapest(self, drop: float) -> int:
        """Say the cheapest point whose drop is at most this, or the one of least drop."""
        meets = self.drop <= drop + 1e-12
        return int(np.argmax(meets)) if meets[-1] else len(self) - 1

    def best(self, price: float) -> int:
        """Say the point of most right answers less ``price`` per millisecond, per row."""
        return int(np.argmax(self.right / max(self.rows, 1) - price * self.cost_ms))

    def price_at(self, point: int) -> float:
        """Give the slope of the frontier's upper hull at a point: right answers per millisecond."""
        right, cost = self.right / max(self.rows, 1), self.cost_ms
        hull = _hull(cost, right)
        at = int(np.searchsorted(cost[hull], cost[point]))
        low, high = max(at - 1, 0), min(at + 1, len(hull) - 1)
        if low == high:
            return 0.0
        rise = right[hull[high]] - right[hull[low]]
        return float(rise / (cost[hull[high]] - cost[hull[low]]))


@dataclass(frozen=True, slots=True)
class Search:
    """How points are found.

    Attributes:
        kind: ``SMOOTH`` or ``EXACT``.
        among: Sub-cascades to look at.
    """

    kind: str
    among: tuple[Tiers, ...]

    def pool(self, view: View, costs: Costs, worst_ms: float = np.inf) -> Pool:
        """Find all points; ``worst_ms`` bounds the longest way of a row."""
        among = _within(self.among, costs, view.scored.n_tiers, worst_ms)
        if self.kind == SMOOTH:
            return smooth_pool(view, costs, among)
        climb = max(map(len, among)) > MAX_TIERS
        return exact_pool(view, costs, among, climb=climb)

    def quick(self, view: View, costs: Costs, prices: Sequence[float]) -> Pool:
        """Find what is needed to compare searches at a few prices."""
        if self.kind == SMOOTH:
            return smooth_pool(view, costs, self.among, prices=prices)
        return exact_pool(view, costs, self.among, edges=_QUICK_EDGES)


def shortlist(view: View, costs: Costs, most: int = 16) -> tuple[Tiers, ...]:
    """Say which sub-cascades are worth a search.

    Up to four tiers: all. A larger pool has hundreds; those with the most points on a coarse
    exact frontier are kept, and all tiers together.
    """
    n_tiers = view.scored.n_tiers
    if n_tiers <= MAX_TIERS:
        return tuple(subsets(n_tiers))
    pool = exact_pool(view, costs, tuple(subsets(n_tiers)), edges=12)
    counts: dict[Tiers, int] = {}
    for gates in pool.gates:
        tiers = tuple(k for k, gate in enumerate(gates) if not gate.off)
        counts[tiers] = counts.get(tiers, 0) + 1
    best = sorted(counts, key=lambda tiers: (-counts[tiers], tiers))[:most]
    alone = [(k,) for k in range(n_tiers)]
    return tuple(dict.fromkeys([*alone, *best, tuple(range(n_tiers))]))


def exact_pool(
    view: View,
    costs: Costs,
    among: Sequence[Tiers],
    *,
    edges: int = 10**9,
    climb: bool = False,
) -> Pool:
    """Merge the exact frontiers of sub-cascades of up to four tiers.

    Args:
        view: Rows and how they are read.
        costs: Tables of all tiers.
        among: Sub-cascades; larger ones are left to the climb.
        edges: At most this many thresholds per gate.
        climb: Add the points that coordinate ascent finds for all tiers.
    """
    n_tiers = view.scored.n_tiers
    ladders: dict[tuple[int, int], Floats] = {}
    parts: list[Pool] = []
    for tiers in among:
        if len(tiers) > MAX_TIERS:
            continue
        size = min(edge_count(len(tiers)), edges)
        for k in tiers[:-1]:
            if (k, size) not in ladders:
                ladders[k, size] = cuts(view.score(k), size)
        frontier = grid_frontier(
            [view.score(k) for k in tiers[:-1]],
            [view.right(tiers[: j + 1]) for j in range(len(tiers))],
            costs,
            tiers,
            [ladders[k, size] for k in tiers[:-1]],
        )
        gates = [gates_from(tiers, t, n_tiers) for t in frontier.thresholds]
        parts.append(_pool(view, gates, frontier.right, frontier.cost_ms))
    if climb and view.reading.answer == "last":
        climbed = list(ascend(view, costs))
        rights = np.array([point.right for point in climbed], dtype=np.int64)
        spent = np.array([point.cost_ms for point in climbed])
        parts.append(_pool(view, [point.gates for point in climbed], rights, spent))
    return merged(parts)


def smooth_pool(
    view: View,
    costs: Costs,
    among: Sequence[Tiers],
    *,
    prices: Sequence[float] | Floats | None = None,
) -> Pool:
    """Merge the smooth paths of sub-cascades.

    Args:
        view: Rows and how they are read.
        costs: Tables of all tiers.
        among: Sub-cascades of any size.
        prices: Shares of right answers per millisecond; None: ``PRICES`` of the last tier's cost.
    """
    n_tiers = view.scored.n_tiers
    if prices is None:
        prices = PRICES / max(costs.alone(n_tiers - 1), 1e-12)
    parts: list[Pool] = []
    for tiers in among:
        scores = [view.score(k) for k in tiers[:-1]]
        right = [view.right(tiers[: j + 1]) for j in range(len(tiers))]
        if len(tiers) == 1:
            path = np.zeros((1, 0))
        else:
            path = np.unique(smooth_path(view, costs, tiers, prices), axis=0)
        counts, spent = np.zeros(len(path), dtype=np.int64), np.zeros(len(path))
        for i, thresholds in enumerate(path):
            count, cost = grid(scores, right, costs, tiers, [np.array([t]) for t in thresholds])
            counts[i], spent[i] = count.item(), cost.item()
        parts.append(_pool(view, [gates_from(tiers, t, n_tiers) for t in path], counts, spent))
    return merged(parts)


def merged(pools: Sequence[Pool]) -> Pool:
    """Keep of some frontiers, found on the same rows, what none of them beats."""
    gates = [gates for pool in pools for gates in pool.gates]
    right = np.concatenate([pool.right for pool in pools])
    cost = np.concatenate([pool.cost_ms for pool in pools])
    keep = pareto(cost, right)
    return Pool(
        gates=tuple(gates[i] for i in keep),
        right=right[keep],
        cost_ms=cost[keep],
        rows=pools[0].rows,
        reference=pools[0].reference,
    )


def _within(
    among: Sequence[Tiers], costs: Costs, n_tiers: int, worst_ms: float
) -> tuple[Tiers, ...]:
    """Keep sub-cascades whose longest way costs at most this; the cheapest tier if none does."""
    alone = [costs.alone(k) for k in range(n_tiers)]
    kept = tuple(tiers for tiers in among if sum(alone[k] for k in tiers) <= worst_ms)
    return kept or ((int(np.argmin(alone)),),)


def _pool(
    view: View,
    gates: Sequence[tuple[Gate, ...]],
    right: npt.NDArray[np.int64],
    cost_ms: Floats,
) -> Pool:
    """Hold points as they are, for ``merged`` to choose from."""
    return Pool(
        gates=tuple(gates),
        right=right,
        cost_ms=cost_ms,
        rows=len(view),
        reference=int(view.reference.sum()),
    )


def _hull(cost: Floats, right: Floats) -> npt.NDArray[np.int64]:
    """Keep the points of the upper concave hull; both arrays rise."""
    hull: list[int] = []
    for i in range(len(cost)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            turn = (right[b] - right[a]) * (cost[i] - cost[a]) - (right[i] - right[a]) * (
                cost[b] - cost[a]
            )
            if turn > 0:
                break
            hull.pop()
        hull.append(i)
    return np.array(hull, dtype=np.int64)
