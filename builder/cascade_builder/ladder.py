"""From a wish and a frontier to certified operating points.

Each goal's candidates run from the safest to the cheapest that meets it on the choosing rows; the
check rows say how far down that list the promise holds. All goals share the level. Shapes: n rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import CalibrationError
from cascade_router.gate import Gate

from .certify import BETTING, BINOMIAL, bound, fixed_sequence, p_value, rows_needed
from .cost_tables import Costs
from .dispatch import with_dispatch
from .pool import Search
from .replay import View, gates_from, replay
from .wish import LAST, Goal, Wish

__all__ = ["Certified", "Refused", "certified_ladder", "losses_of"]

_CANDIDATES = 24
Losses = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A point whose promise holds at the ladder's level.

    Attributes:
        name: Of the point.
        gates: K gates.
        certificate: As it stands in ``policy.json``.
    """

    name: str
    gates: tuple[Gate, ...]
    certificate: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A goal that the check rows do not support.

    Attributes:
        name: Of the point.
        drop: What was wished.
        best: The least drop that can be promised for its safest candidate.
        rows_needed: Check rows that would do, if more were like these; None: no number would.
        check_rows: Check rows there were.
    """

    name: str
    drop: float
    best: float
    rows_needed: int | None
    check_rows: int


def certified_ladder(
    view: View,
    check: npt.NDArray[np.int64],
    costs: Costs,
    wish: Wish,
    search: Search,
    luck: float,
) -> tuple[list[Certified], list[Refused]]:
    """Choose candidates on the view's rows and certify them on the check rows.

    Args:
        view: Rows to choose on.
        check: (n,) int64, rows nothing was chosen on.
        costs: Tables of all tiers.
        wish: Goals and level.
        search: Finds the points.
        luck: What chosen points lose on fresh rows beyond what they lost on their own.

    Raises:
        CalibrationError: If a goal's costs cannot be met, or the default point is refused.
    """
    # The betting bound needs an order that says nothing about the rows.
    check = np.random.default_rng([wish.seed, 1]).permutation(check)
    judge = view.at(check)
    n_tiers = view.scored.n_tiers
    last = gates_from([n_tiers - 1], [], n_tiers)
    delta = wish.delta / max(len(wish.goals), 1)
    certified = [_the_last_tier(last, view, wish, len(check))]
    refused = []
    for name, goal in wish.goals.items():
        chain = [
            _dispatched(view, gates, costs, price, goal, luck, wish)
            for gates, price in candidates(view, costs, goal, search, luck, name)
        ]
        method = _method(view, chain, costs, goal, delta, len(check), wish.seed)
        losses = [losses_of(judge, gates, costs) for gates in chain]
        if goal.drop is None:
            kept, promise = len(chain) - 1, bound(losses[-1], delta, method)
        else:
            tests = [p_value(loss, goal.drop, delta, method) for loss in losses]
            kept, promise = fixed_sequence(tests, delta) - 1, goal.drop
        if kept < 0:
            safest = losses_of(view, chain[0], costs)
            refused.append(_refusal(name, goal, losses[0], safest, delta, method))
            continue
        text = _certificate(view, wish, promise, losses[kept], method, delta)
        certified.append(Certified(name=name, gates=chain[kept], certificate=text))
    for refusal in refused:
        if refusal.name == wish.default:
            raise _error(refusal, view, wish)
    return certified, refused


def candidates(
    view: View, costs: Costs, goal: Goal, search: Search, luck: float, name: str
) -> list[tuple[tuple[Gate, ...], float]]:
    """List gates and price of a goal's candidates, safest first, cheapest last."""
    worst = math.inf if goal.worst_ms is None else goal.worst_ms
    pool = search.pool(view, costs, worst)
    least = min(costs.alone(k) for k in range(view.scored.n_tiers))
    affordable = pool.cost_ms <= (math.inf if goal.mean_ms is None else goal.mean_ms)
    if not affordable.any() or worst < least:
        message = f"calibrate: point {name!r}: no point costs at most what it asks for"
        cheapest = max(float(pool.cost_ms[0]), least)
        raise CalibrationError(message, hint=f"the cheapest costs {cheapest:.4g} ms per row")
    if goal.drop is None:
        if goal.efficiency is not None:
            top = float(pool.cost_ms[pool.cheapest(0.0)])
            span = top - float(pool.cost_ms[0])
            affordable &= pool.cost_ms <= top - goal.efficiency * span + 1e-12
        chosen = [int(np.flatnonzero(affordable)[-1])]
    else:
        meets = np.flatnonzero(affordable & (pool.drop + luck <= goal.drop + 1e-12))[::-1]
        if not len(meets):
            meets = np.flatnonzero(affordable)[-1:]
        thin = np.linspace(0, len(meets) - 1, min(len(meets), _CANDIDATES)).round().astype(int)
        chosen = meets[thin].tolist()
    return [(pool.gates[i], pool.price_at(i)) for i in chosen]


def losses_of(view: View, gates: Sequence[Gate], costs: Costs) -> Losses:
    """Give (n,) int64 losses against the last tier alone: 1 lost, -1 won (only with labels)."""
    right = replay(view, gates, costs).right
    return view.reference.astype(np.int64) - right.astype(np.int64)


def _dispatched(
    view: View,
    gates: tuple[Gate, ...],
    costs: Costs,
    price: float,
    goal: Goal,
    luck: float,
    wish: Wish,
) -> tuple[Gate, ...]:
    """Add a skip that pays, unless it spends more than the goal allows."""
    skipping = with_dispatch(view, gates, costs, price, wish.seed)
    if skipping is gates:
        return gates
    drop, cost = losses_of(view, skipping, costs).mean(), replay(view, skipping, costs).cost_ms
    too_much = goal.drop is not None and drop + luck > goal.drop
    too_dear = goal.mean_ms is not None and cost > goal.mean_ms
    return gates if too_much or too_dear else skipping


def _method(
    view: View,
    chain: Sequence[tuple[Gate, ...]],
    costs: Costs,
    goal: Goal,
    delta: float,
    n_check: int,
    seed: int,
) -> str:
    """Pick the bound that would promise more, judged on the choosing rows alone."""
    if not view.scored.with_labels:
        return BINOMIAL
    rng = np.random.default_rng([seed, 2])
    rows = rng.choice(len(view), n_check, replace=n_check > len(view))
    losses = [losses_of(view, gates, costs)[rows] for gates in chain]
    if goal.drop is None:
        return min((BETTING, BINOMIAL), key=lambda m: bound(losses[-1], delta, m))
    reached = {
        m: fixed_sequence([p_value(loss, goal.drop, delta, m) for loss in losses], delta)
        for m in (BETTING, BINOMIAL)
    }
    return BINOMIAL if reached[BINOMIAL] > reached[BETTING] else BETTING


def _certificate(
    view: View, wish: Wish, promise: float, losses: Losses, method: str, delta: float
) -> dict[str, Any]:
    return {
        "promise": f"{_measure(view)} drop at most",
        "bound": float(promise),
        "level": 1 - wish.delta,
        "rows": len(losses),
        "method": f"{method}, split fixed sequence",
        "joint_with": len(wish.goals),
        "point_level": 1 - delta,
        "lost": int((losses > 0).sum()),
        "won": int((losses < 0).sum()),
    }


def _the_last_tier(last: tuple[Gate, ...], view: View, wish: Wish, n_check: int) -> Certified:
    nothing = np.zeros(n_check, dtype=np.int64)
    text = _certificate(view, wish, 0.0, nothing, "the last tier answers every row", wish.delta)
    return Certified(name=LAST, gates=last, certificate=text | {"method": "by construction"})


def _refusal(
    name: str, goal: Goal, losses: Losses, chosen_on: Losses, delta: float, method: str
) -> Refused:
    """Say what the safest candidate would allow: the first test of the sequence is its own."""
    drop = 0.0 if goal.drop is None else goal.drop
    return Refused(
        name=name,
        drop=drop,
        best=bound(losses, delta, method),
        rows_needed=rows_needed(
            np.concatenate([chosen_on, losses]), drop, delta, method, had=len(losses)
        ),
        check_rows=len(losses),
    )


def _error(refused: Refused, view: View, wish: Wish) -> CalibrationError:
    message = (
        f"calibrate: {refused.name}: not certified: no thresholds keep the {_measure(view)} drop "
        f"<= {refused.drop:g} at level {1 - wish.delta:g} on {refused.check_rows} check rows; "
        f"best that can be promised: {refused.best:.4f}"
    )
    if refused.rows_needed is None:
        hint = f"allow a drop of {refused.best:.4f}; more rows like these would not do"
    else:
        everything = math.ceil(refused.rows_needed / max(wish.shares[2], 1e-9))
        hint = (
            f"allow a drop of {refused.best:.4f}, or give about {refused.rows_needed} check rows "
            f"({everything} rows in all)"
        )
    return CalibrationError(message, hint=hint)


def _measure(view: View) -> str:
    return "accuracy" if view.scored.with_labels else "agreement"
