"""Direct dispatch: rows a gate finds hopeless skip the tier that would fail them too.

Skipping is offered only where rows that did not choose it show that it pays; in most cascades it
does not. Shapes: n rows, K tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cascade_router.gate import Gate
from cascade_router.scores import Floats

from .cost_tables import Costs
from .replay import View, replay
from .selection import folds

__all__ = ["with_dispatch"]

_PROOF = 2.0
"""Standard errors by which a skip must pay on held-out rows."""


def with_dispatch(
    view: View, gates: tuple[Gate, ...], costs: Costs, price: float, seed: int
) -> tuple[Gate, ...]:
    """Let the first gate that gains by it send its lowest scores straight to a later tier.

    Args:
        view: Rows it is chosen and, fold by fold, proved on.
        gates: K gates of one point.
        costs: Tables of all tiers.
        price: Share of right answers that a millisecond per row is worth at this point.
        seed: Of the folds.

    Returns:
        Gates with one skip, or the same gates.
    """
    on = [k for k, gate in enumerate(gates) if not gate.off]
    if len(on) < 3 or view.reading.answer != "last" or not price > 0:
        return gates
    for j, tier in enumerate(on[:-2]):
        for target in on[j + 2 :]:
            gain = _gains(view, gates, costs, price, tier, target)
            score = view.score(tier)
            held_out = np.zeros(len(view))
            for kept, held in folds(len(view), seed):
                cut = _cut(score[kept], gain[kept])
                held_out[held] = np.where(score[held] < cut, gain[held], 0.0)
            error = held_out.std(ddof=1) / np.sqrt(len(view)) if len(view) > 1 else np.inf
            cut = _cut(score, gain)
            if held_out.mean() > _PROOF * error and np.isfinite(cut):
                skipping = replace(gates[tier], skip_below=cut, skip_to=target)
                return (*gates[:tier], skipping, *gates[tier + 1 :])
    return gates


def _gains(
    view: View, gates: Sequence[Gate], costs: Costs, price: float, tier: int, target: int
) -> Floats:
    """Value each row would gain by going from ``tier`` straight to ``target``: (n,) float64."""
    now = replay(view, gates, costs)
    behind = [gate if k >= target else replace(gate, off=True) for k, gate in enumerate(gates)]
    then = replay(view, behind, costs)
    later = np.arange(len(gates)) > tier
    saved = now.tier_ms[later] @ now.ran[later] - now.tier_ms[later] @ then.ran[later]
    escalates = now.ran[tier] & (now.exit_tier > tier)
    gain = then.right.astype(np.float64) - now.right + price * saved
    return np.where(escalates, gain, 0.0)


def _cut(score: Floats, gain: Floats) -> float:
    """Place ``skip_below`` where the gains of all lower scores add up to the most."""
    known = np.flatnonzero(np.isfinite(score))
    order = known[np.argsort(score[known], kind="stable")]
    values = score[order]
    total = np.concatenate(([0.0], np.cumsum(gain[order])))
    cut = np.concatenate(([True], values[1:] > values[:-1], [True]))
    at = int(np.argmax(np.where(cut, total, -np.inf)))
    if at == 0:
        return -np.inf
    if at == len(order):
        return float(values[-1]) + 1.0
    middle = values[at - 1] + (values[at] - values[at - 1]) / 2
    return float(middle if middle > values[at - 1] else values[at])
