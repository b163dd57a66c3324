"""The rule that lets a row exit at a tier, or sends it up.

Shapes: N rows, P operating points, K tiers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .scores import Floats
from .strict import Table

__all__ = ["DECIDED", "Gate", "GateTable", "Ints"]

Ints = npt.NDArray[np.integer[Any]]

DECIDED = -1
"""The tier of a row that needs no further one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Accept a row when its score reaches the threshold.

    Attributes:
        threshold: Lowest score that exits. ``-inf``: every row exits. A NaN score escalates.
        off: The tier is not run at this operating point.
        skip_below: A row that escalates with a score under this goes straight to ``skip_to``.
        skip_to: Tier for such rows; None: escalate one by one.
    """

    threshold: float = -math.inf
    off: bool = False
    skip_below: float = -math.inf
    skip_to: int | None = None

    @classmethod
    def from_table(cls, table: Table) -> Gate:
        """Read from a table of ``policy.json``; one without a threshold lets every row exit."""
        gate = cls(
            threshold=table.number("threshold", 0.0) if table.has("threshold") else -math.inf,
            off=table.flag("off", False),
            skip_below=table.number("skip_below", 0.0) if table.has("skip_below") else -math.inf,
            skip_to=table.whole("skip_to", 0) if table.has("skip_to") else None,
        )
        table.done()
        return gate

    def as_json(self) -> dict[str, object]:
        """Write what ``from_table`` reads."""
        out: dict[str, object] = {}
        if self.off:
            out["off"] = True
        if math.isfinite(self.threshold):
            out["threshold"] = self.threshold
        if self.skip_to is not None:
            out.update(skip_below=self.skip_below, skip_to=self.skip_to)
        return out


class GateTable:
    """The gates of all operating points as arrays, so that a batch may mix points.

    Args:
        points: P sequences of K gates.

    Attributes:
        start: (P,) int, the first tier each point runs.
    """

    def __init__(self, points: Sequence[Sequence[Gate]]) -> None:
        self._threshold = np.array([[g.threshold for g in p] for p in points])
        self._skip_below = np.array([[g.skip_below for g in p] for p in points])
        self._n_tiers = self._threshold.shape[1]
        # _at_or_above[p, k]: the first tier >= k that point p runs; K when there is none.
        self._at_or_above = np.full((len(points), self._n_tiers + 1), self._n_tiers, dtype=np.int64)
        for p, gates in enumerate(points):
            for k in range(self._n_tiers - 1, -1, -1):
                self._at_or_above[p, k] = self._at_or_above[p, k + 1] if gates[k].off else k
        self.start = self._at_or_above[:, 0]
        self._skips = bool(np.isfinite(self._skip_below).any())
        self._skip_to = np.array(
            [[k + 1 if g.skip_to is None else g.skip_to for k, g in enumerate(p)] for p in points]
        )

    def first(self, point: Ints, min_tier: Ints, max_tier: Ints) -> Ints:
        """Say where each row starts.

        Args:
            point: (N,) int, index of each row's operating point.
            min_tier: (N,) int, lowest tier that may answer.
            max_tier: (N,) int, highest tier that may answer, >= min_tier.

        Returns:
            (N,) int: the first tier that its point runs from ``min_tier`` on. Where the point runs
            none up to ``max_tier``, ``max_tier`` itself: the caller's bound wins over the point.
        """
        return np.minimum(self._at_or_above[point, min_tier], max_tier)

    def above(self, tier: int, point: Ints, max_tier: Ints) -> Ints:
        """Say where rows go that ``tier`` cannot be run for.

        Args:
            tier: The tier they do without.
            point: (N,) int, index of each row's operating point.
            max_tier: (N,) int, highest tier that may answer.

        Returns:
            (N,) int: the next tier that the point runs, or ``DECIDED`` where there is none.
        """
        target = self._at_or_above[point, tier + 1]
        return np.where((target > max_tier) | (target == self._n_tiers), DECIDED, target)

    def next(self, tier: int, scores: Floats, point: Ints, max_tier: Ints) -> Ints:
        """Say where each row goes after ``tier``.

        Args:
            tier: The tier that has just run.
            scores: (N,) float, its scores.
            point: (N,) int, index of each row's operating point.
            max_tier: (N,) int, highest tier that may answer.

        Returns:
            (N,) int: the tier to run next, or ``DECIDED``. At equality a row exits; a NaN score
            escalates; a row is decided when its point runs no further tier up to ``max_tier``.
        """
        exits = scores >= self._threshold[point, tier]
        target = self._at_or_above[point, tier + 1]
        if self._skips:
            far = np.maximum(np.minimum(self._skip_to[point, tier], max_tier), tier + 1)
            skips = scores < self._skip_below[point, tier]
            target = np.where(skips, self._at_or_above[point, far], target)
        return np.where(exits | (target > max_tier) | (target == self._n_tiers), DECIDED, target)
