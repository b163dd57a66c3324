"""A smooth way through the thresholds: one vector of them per price.

The exact grid follows every lucky row. Here the gain of going on, as a function of a gate's score,
is a smooth curve (logistic regressions on the score's rank), and thresholds follow from the price
of a millisecond, from the last gate back to the first. All thresholds then move along one path, so
few rows suffice: on 650 rows its points lose on fresh rows what they lost on their own, where the
cheapest grid point loses up to a third more. Shapes: n rows, k tiers, B bins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cascade_router.scores import Floats

from .cost_tables import Costs
from .replay import View

__all__ = ["smooth_path"]

_BINS = 128
_STEPS = 12
_RIDGE = np.array([5e-4, 0.5, 0.5])
"""Penalty on constant, slope and bend of a curve, in rows."""


class _Gate:
    """One gate's rows, sorted by score into bins of even size with a curve's basis over them."""

    def __init__(self, scores: Floats, right: npt.NDArray[np.bool_]) -> None:
        self.scores = np.where(np.isnan(scores), -np.inf, scores)
        self.right = right
        self.order = np.argsort(self.scores, kind="stable")
        n, bins = len(scores), min(_BINS, len(scores))
        self.starts = (np.arange(bins) * n) // bins
        self.weight = np.diff(np.append(self.starts, n)).astype(np.float64)
        middle = (self.starts + self.weight / 2) / n
        z = _normal_quantile(middle)
        self.basis = np.stack([np.ones(bins), z, z * z], axis=1)
        self._curves: dict[bytes, Floats] = {}

    def curve(self, values: Floats) -> Floats:
        """Fit the mean of (n,) values in [0, 1] along the score: (B,) float64."""
        mean = np.add.reduceat(values[self.order], self.starts) / self.weight
        key = mean.tobytes()
        if key not in self._curves:  # the last gate asks the same at every price
            self._curves[key] = mean if np.ptp(mean) == 0 else self._logistic(mean)
        return self._curves[key]

    def _logistic(self, mean: Floats) -> Floats:
        """Fit (B,) bin means by Newton's method on the penalised log loss."""
        basis, weights = self.basis, np.zeros(3)
        for _ in range(_STEPS):
            p = _sigmoid(basis @ weights)
            slope = basis.T @ (self.weight * (mean - p)) - _RIDGE * weights
            bend = (basis.T * (self.weight * np.maximum(p * (1 - p), 1e-6))) @ basis
            step = np.linalg.solve(bend + np.diag(_RIDGE), slope)
            weights += np.minimum(np.maximum(step, -4), 4)
            if max(abs(step)) < 1e-5:
                break
        return _sigmoid(basis @ weights)

    def threshold(self, gain: Floats) -> float:
        """Cut where going on stops to pay: below it the (B,) smooth gains add up to the most."""
        ordered = self.scores[self.order]
        if ordered[-1] == -np.inf:
            return 0.0  # NaN everywhere: no row exits, whatever the threshold
        total = np.concatenate(([0.0], np.cumsum(gain * self.weight)))
        at = int(np.argmax(total))
        if at == len(gain):
            return float(ordered[-1]) + 1.0
        if at == 0:
            return float(ordered[np.isfinite(ordered)][0]) - 1.0
        row = int(self.starts[at])
        # The curve crosses zero somewhere in the two bins around the cut.
        left, right = gain[at - 1], gain[at]
        if left > 0 > right:
            width = (self.weight[at - 1] + self.weight[at]) / 2
            row = int(row - self.weight[at - 1] / 2 + width * left / (left - right))
        row = min(max(row, 1), len(ordered) - 1)
        return _between(ordered, row)


def smooth_path(
    view: View, costs: Costs, tiers: Sequence[int], prices: Sequence[float] | Floats
) -> Floats:
    """Find thresholds of one sub-cascade for every price.

    Args:
        view: Rows and how they are read.
        costs: Tables of all tiers.
        tiers: The k > 1 tiers that run.
        prices: Shares of right answers that one millisecond per row is worth.

    Returns:
        (len(prices), k - 1) float64.
    """
    gates = [_Gate(view.score(t), view.right(tiers[: j + 1])) for j, t in enumerate(tiers[:-1])]
    end = view.right(tiers)
    shares = np.ones(len(tiers))
    out = []
    for price in prices:
        found, shares = _back(gates, end, costs, tiers, float(price), shares)
        out.append(found)
    return np.array(out)


def _back(
    gates: Sequence[_Gate],
    end: npt.NDArray[np.bool_],
    costs: Costs,
    tiers: Sequence[int],
    price: float,
    shares: Floats,
) -> tuple[Floats, Floats]:
    """Set the gates from the last back; costs per row follow the neighbouring price's reach."""
    per_row = [costs.per_row(t, max(s, 1e-6)) for t, s in zip(tiers, shares, strict=True)]
    right = end
    spent = np.full(len(end), per_row[-1])
    thresholds = np.zeros(len(gates))
    for j in range(len(gates) - 1, -1, -1):
        gate = gates[j]
        wins = gate.curve((right & ~gate.right).astype(np.float64))
        losses = gate.curve((gate.right & ~right).astype(np.float64))
        top = float(spent.max())
        charge = top * gate.curve(spent / top) if top > 0 else np.zeros(len(wins))
        thresholds[j] = gate.threshold(wins - losses - price * charge)
        leaves = gate.scores >= thresholds[j]
        right = np.where(leaves, gate.right, right)
        spent = per_row[j] + np.where(leaves, 0.0, spent)
    reached = np.ones(len(end), dtype=bool)
    shares = np.ones(len(tiers))
    for j, gate in enumerate(gates):
        reached &= ~(gate.scores >= thresholds[j])
        shares[j + 1] = reached.mean()
    return thresholds, shares


def _between(ordered: Floats, row: int) -> float:
    """Place a threshold under ``ordered[row]``, strictly between distinct scores."""
    above = ordered[row]
    first = int(np.searchsorted(ordered, above, side="left"))
    if first == 0 or not np.isfinite(ordered[first - 1]):
        return float(above) - 1.0 if np.isfinite(above) else 0.0
    middle = ordered[first - 1] + (above - ordered[first - 1]) / 2
    return float(middle if ordered[first - 1] < middle <= above else above)


def _sigmoid(x: Floats) -> Floats:
    """Logistic function, without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _normal_quantile(p: Floats) -> Floats:
    """Invert the normal distribution function."""
    from scipy.special import ndtri

    return np.asarray(ndtri(p))
