"""The accuracy-cost frontier of a cascade, exactly, on a grid of thresholds.

Every row falls into one bin per gate; a histogram over bins and a cumulative sum along each axis
give the reach and the right answers of every combination of thresholds at once. Counts are whole
numbers. Shapes: K tiers, N rows, G thresholds per gate, M points.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.scores import Floats

from .cost_tables import Costs

__all__ = [
    "MAX_TIERS",
    "Frontier",
    "cuts",
    "edge_count",
    "grid",
    "grid_frontier",
    "pareto",
    "subsets",
]

Counts = npt.NDArray[np.int64]

MAX_TIERS = 4
"""Tiers up to which the grid is exact and affordable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Points of one sub-cascade, cheapest first, each better than all before it.

    Attributes:
        tiers: The k tiers that run, ascending.
        thresholds: (M, k - 1) float64, one per gate before the last tier.
        right: (M,) int64, rows answered right.
        cost_ms: (M,) float64, mean milliseconds per arriving row.
        rows: N.
    """

    tiers: tuple[int, ...]
    thresholds: Floats
    right: Counts
    cost_ms: Floats
    rows: int


def cuts(scores: Floats, n: int) -> Floats:
    """Place up to ``n`` thresholds between distinct scores, at even quantiles.

    Args:
        scores: (N,) float64; NaN rows never exit and place no threshold.
        n: At least 1.

    Returns:
        (G,) float64, ascending, G <= n. Each lies half way between two neighbouring scores, so
        that rounding cannot flip a row; the last is above all scores.

    Example:
        >>> cuts(np.array([0.1, 0.3, 0.3, 0.9]), 9)
        array([0.2, 0.6, 1.9])
    """
    finite = np.sort(scores[np.isfinite(scores)])
    if not len(finite):
        return np.array([0.0])
    # Positions where a new score begins: a cut below each but the least.
    starts = np.flatnonzero(np.diff(finite)) + 1
    if len(starts) > n - 1:
        wanted = len(finite) * np.arange(1, n) / n
        starts = np.unique(starts[np.searchsorted(starts, wanted).clip(0, len(starts) - 1)])
    below, above = finite[starts - 1], finite[starts]
    middle = below + (above - below) / 2
    # Neighbouring floats have no middle: `>=` makes the upper one itself the threshold.
    middle = np.where((middle > below) & (middle <= above), middle, above)
    return np.append(middle, finite[-1] + 1.0)


def grid_frontier(
    scores: Sequence[Floats],
    right: Sequence[npt.NDArray[np.bool_]],
    costs: Costs,
    tiers: tuple[int, ...],
    edges: Sequence[Floats],
) -> Frontier:
    """Compute every combination of thresholds of one sub-cascade and keep the frontier.

    Args:
        scores: k - 1 times (N,) float64, of the gates.
        right: k times (N,) bool, right or agreeing if the row is answered there.
        costs: Tables of all tiers.
        tiers: The k tiers that run.
        edges: k - 1 times (G,) float64, ascending thresholds to try.
    """
    accuracy, cost = grid(scores, right, costs, tiers, edges)
    flat = pareto(cost.ravel(), accuracy.ravel())
    at = np.unravel_index(flat, cost.shape) if edges else ()
    thresholds = [edge[i] for edge, i in zip(edges, at, strict=True)]
    return Frontier(
        tiers=tiers,
        thresholds=np.stack(thresholds, axis=1) if thresholds else np.zeros((len(flat), 0)),
        right=accuracy.ravel()[flat],
        cost_ms=cost.ravel()[flat],
        rows=len(right[0]),
    )


def grid(
    scores: Sequence[Floats],
    right: Sequence[npt.NDArray[np.bool_]],
    costs: Costs,
    tiers: tuple[int, ...],
    edges: Sequence[Floats],
) -> tuple[Counts, Floats]:
    """Count right answers and cost for every combination of thresholds.

    Returns:
        ((G, ..., G) int64 right answers, (G, ..., G) float64 mean milliseconds per row), one axis
        per gate. A grid of no gates has shape ().
    """
    n_rows, n_gates = len(right[0]), len(edges)
    # A row passes gate m at threshold j when its bin is <= j; NaN lies in bin 0: it always passes.
    bins = [
        np.where(np.isnan(s), 0, np.searchsorted(edge, s, side="right"))
        for s, edge in zip(scores, edges, strict=True)
    ]
    sizes = [len(edge) + 1 for edge in edges]
    keys = [np.zeros(n_rows, dtype=np.int64)]
    for bin_, size in zip(bins, sizes, strict=True):
        keys.append(keys[-1] * size + bin_)

    def passed(n: int, rows: npt.NDArray[np.bool_] | None) -> Counts:
        """Count rows that pass the first n gates, for all their thresholds: (G,) * n."""
        key = keys[n] if rows is None else keys[n][rows]
        table = np.bincount(key, minlength=int(np.prod(sizes[:n]))).reshape(sizes[:n])
        for axis in range(n):
            np.cumsum(table, axis=axis, out=table)
        return table[(slice(-1),) * n]

    def spread(table: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
        """Give a table of n gates the axes of all."""
        return table.reshape(table.shape + (1,) * (n_gates - n))

    shape = tuple(len(edge) for edge in edges)
    accuracy = np.zeros(shape, dtype=np.int64)
    cost = np.zeros(shape)
    for k, tier in enumerate(tiers):
        cost += spread(costs.spent(tier, passed(k, None) / n_rows), k)
        accuracy += spread(passed(k, right[k]), k)
        if k < n_gates:
            accuracy -= spread(passed(k + 1, right[k]), k + 1)
    return accuracy, cost


def pareto(cost: Floats, right: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Say which points are on the frontier, cheapest first, strictly better each.

    Among points of one cost and one accuracy the last wins: the one with higher thresholds.

    Args:
        cost: (M,) float.
        right: (M,) numbers, more is better.

    Returns:
        (F,) int64 indices.
    """
    order = np.lexsort((-np.arange(len(cost)), -right, cost))
    ordered = right[order]
    best = np.maximum.accumulate(ordered)
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = ordered[1:] > best[:-1]
    return np.asarray(order[keep], dtype=np.int64)


def subsets(n_tiers: int, largest: int = MAX_TIERS) -> Iterator[tuple[int, ...]]:
    """Say every sub-cascade of up to ``largest`` tiers, smaller ones first."""
    for size in range(1, min(n_tiers, largest) + 1):
        yield from itertools.combinations(range(n_tiers), size)


def edge_count(size: int) -> int:
    """Say how many thresholds per gate a sub-cascade of ``size`` tiers may try."""
    return {1: 1, 2: 1000, 3: 200, 4: 64}[size]
