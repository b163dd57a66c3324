"""Sub-cascades of a pool and their frontiers, each found once and compared on held-out folds.

Shapes: n rows, K experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cascade_router.gate import Gate
from cascade_router.scores import Floats

from .cost_tables import Costs
from .frontier import subsets
from .pool import PRICES, Pool, Tiers, merged, shortlist, smooth_pool
from .replay import View, replay
from .selection import folds, luck, paired
from .wish import Goal

__all__ = ["Aim", "Candidate", "Candidates", "jackknife"]

_AROUND = 0.01
"""Drop around which luck is measured where a goal names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """A goal, and what is set aside for luck when points are chosen for it.

    Attributes:
        goal: What is asked for.
        aside: What the best of all candidates' points loses on fresh rows beyond what it lost on
            the rows it was chosen on.
    """

    goal: Goal
    aside: float

    @property
    def mean_ms(self) -> float:
        """Budget of a row."""
        return math.inf if self.goal.mean_ms is None else self.goal.mean_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The frontier of a sub-cascade on some rows, and those rows."""

    pool: Pool
    view: View

    def point(self, aim: Aim, costs: Costs) -> int | None:
        """Give the cheapest point that keeps the drop, else the best within the budget.

        A drop is kept if it is with one standard error of it and the luck on top: an expert that
        happens to equal the costliest one on these rows is no proof.
        """
        fits = np.flatnonzero(self.pool.cost_ms <= aim.mean_ms)
        if aim.goal.drop is None:
            return int(fits[-1]) if len(fits) else None
        for i in fits[self.pool.drop[fits] <= aim.goal.drop + 1e-12].tolist():
            if self._safe_drop(i, aim, costs) <= aim.goal.drop + 1e-12:
                return int(i)
        return None

    def nearest(self, aim: Aim) -> int:
        """Give the best point within the budget, or the cheapest of all."""
        within = np.flatnonzero(self.pool.cost_ms <= aim.mean_ms)
        return int(within[-1]) if len(within) else 0

    def _safe_drop(self, point: int, aim: Aim, costs: Costs) -> float:
        right = replay(self.view, self.pool.gates[point], costs).right
        lost = self.view.reference.astype(np.float64) - right
        if not lost.any():
            return 0.0  # the costliest expert itself, or a perfect stand-in
        drop, error = paired(lost)
        return drop + error + aim.aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One sub-cascade.

    Attributes:
        tiers: Experts that run, ascending.
        longest_ms: Cost of a row that runs all of them.
        whole: Its frontier on all rows.
        parts: Per fold, its frontier on the rows kept, and the rows held out.
        costs: Tables of all experts.
    """

    tiers: Tiers
    longest_ms: float
    whole: Found
    parts: tuple[tuple[Found, View], ...]
    costs: Costs

    def meets(self, aim: Aim) -> bool:
        """Say whether it has a point for a goal."""
        return self._point(self.whole, aim) is not None

    def gates(self, aim: Aim) -> tuple[Gate, ...]:
        """Give the gates of its point for a goal, or of the nearest to a goal it cannot meet."""
        return self._chosen(self.whole, aim)

    def fold_gates(self, aim: Aim) -> list[tuple[Gate, ...]]:
        """Give the gates that would be chosen without each fold."""
        return [self._chosen(found, aim) for found, _ in self.parts]

    def misses(self, aim: Aim) -> tuple[float, float]:
        """Order candidates by how far they are from a goal: by drop and cost, then by cost."""
        pool, at = self.whole.pool, self.whole.nearest(aim)
        drop, cost = float(pool.drop[at]), float(pool.cost_ms[at])
        over = max(cost - aim.mean_ms, 0.0) / aim.mean_ms
        return max(drop - (aim.goal.drop or 0.0), 0.0) + over, cost

    def held_out(self, aim: Aim) -> list[float]:
        """Value each fold by the point chosen on the others; less is better.

        Milliseconds spent where the goal bounds the drop, else the share of wrong answers.
        """
        out = []
        for found, rest in self.parts:
            done = replay(rest, self._chosen(found, aim), self.costs)
            out.append(done.cost_ms if aim.goal.drop is not None else 1 - float(done.right.mean()))
        return out

    def _point(self, found: Found, aim: Aim) -> int | None:
        worst = aim.goal.worst_ms
        if worst is not None and self.longest_ms > worst:
            return None
        return found.point(aim, self.costs)

    def _chosen(self, found: Found, aim: Aim) -> tuple[Gate, ...]:
        at = self._point(found, aim)
        return found.pool.gates[found.nearest(aim) if at is None else at]


class Candidates:
    """The sub-cascades of a pool that are worth comparing.

    Up to two experts: all. Of larger ones those with the most points on a coarse exact frontier
    (all, in a pool of four).

    Args:
        view: Rows that everything is chosen on.
        costs: Tables of all experts, which are ordered by cost.
        seed: Of the folds.
        most: Experts in a cascade, at most.

    Attributes:
        costs: The same.
    """

    def __init__(self, view: View, costs: Costs, seed: int, most: int) -> None:
        self.costs = costs
        self._view = view
        self._last = view.scored.n_tiers - 1
        self._parts = [(view.take(kept), view.take(held)) for kept, held in folds(len(view), seed)]
        self._found: dict[Tiers, Candidate] = {}
        among = [*subsets(self._last + 1, 2), *shortlist(view, costs)]
        self._all = [self.of(tiers) for tiers in dict.fromkeys(among) if len(tiers) <= most]
        self._merged = merged([one.whole.pool for one in self._all])
        self._merged_parts = [
            (merged([one.parts[i][0].pool for one in self._all]), held)
            for i, (_, held) in enumerate(self._parts)
        ]

    @property
    def tried(self) -> int:
        """Sub-cascades that were compared."""
        return len(self._all)

    def of(self, tiers: Tiers) -> Candidate:
        """Find the frontier of one sub-cascade."""
        if tiers not in self._found:
            self._found[tiers] = Candidate(
                tiers=tiers,
                longest_ms=sum(self.costs.alone(k) for k in tiers),
                whole=self._frontier(self._view, tiers),
                parts=tuple((self._frontier(kept, tiers), held) for kept, held in self._parts),
                costs=self.costs,
            )
        return self._found[tiers]

    def aim(self, goal: Goal) -> Aim:
        """Measure the luck of choosing among all candidates, and set it aside."""
        around = goal.drop or _AROUND
        return Aim(goal=goal, aside=luck(self._merged, self._merged_parts, self.costs, around))

    def best_by_size(self, aim: Aim) -> list[Candidate]:
        """Give the best cascade of one expert, of two, ... that meets a goal, where any does."""
        best: dict[int, Candidate] = {}
        meeting = [one for one in self._all if one.meets(aim)]
        for one in sorted(meeting, key=lambda one: sum(one.held_out(aim))):
            best.setdefault(len(one.tiers), one)
        return [best[size] for size in sorted(best)]

    def simplest(self, candidates: Sequence[Candidate], aim: Aim) -> Candidate:
        """Keep the first that is within one standard error of the best.

        The error is of the folds' differences, so that it holds the luck of choosing thresholds as
        well as that of the rows.

        Args:
            candidates: Fewest experts first.
            aim: What they are compared for.
        """
        values = np.array([one.held_out(aim) for one in candidates])
        best = int(np.argmin(values.mean(axis=1)))
        for one, value in zip(candidates, values, strict=True):
            mean, error = paired(value - values[best])
            if mean <= error:
                return one
        return candidates[best]

    def _frontier(self, view: View, tiers: Tiers) -> Found:
        prices = PRICES[::2] / max(self.costs.alone(self._last), 1e-12)
        return Found(pool=smooth_pool(view, self.costs, (tiers,), prices=prices), view=view)


def jackknife(values: Floats) -> float:
    """Give the standard error of an estimate from its values without each fold: (g,) float64.

    Delete-a-group jackknife (Kott 2001).
    """
    g = len(values)
    return float(np.sqrt((g - 1) / g * ((values - values.mean()) ** 2).sum()))
