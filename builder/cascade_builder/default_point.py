"""Which point serves a request that names none, when the person who calibrates does not say.

The ladder's points hold together at one level, so that one of them may be picked afterwards
without weakening any promise.
"""

from __future__ import annotations

from dataclasses import replace

from cascade_router.errors import CalibrationError

from .calibrate import Calibration
from .cost_tables import Costs
from .records import Records
from .replay import Reading, View, replay
from .scored import Scored
from .verdict import class_drops, pays
from .wish import LAST, Wish

__all__ = ["strictest", "with_default"]


def strictest(calibration: Calibration, wish: Wish) -> str:
    """Name the point that promises most, the cheapest of equals; the last tier alone is no gain.

    Raises:
        CalibrationError: If nothing else is certified.
    """
    bounds = {
        point.name: float(point.certificate["bound"])
        for point in calibration.policy.points
        if point.certificate is not None and point.name != LAST
    }
    if bounds:
        return min(bounds, key=lambda name: bounds[name])
    refused = calibration.verdict.refused
    best = min(refused, key=lambda refusal: float(refusal["best"]))
    measure = calibration.verdict.measure
    message = (
        f"calibrate: nothing is certified at level {calibration.verdict.level:g} on "
        f"{best['check_rows']} check rows: "
        + ", ".join(f"{one['name']} ({measure} drop <= {one['drop']:g})" for one in refused)
        + f"; best that can be promised: {best['best']:.4f}"
    )
    loosest = max(refused, key=lambda refusal: float(refusal["drop"]))
    raise CalibrationError(message, hint=_way_out(loosest, float(best["best"]), wish))


def with_default(calibration: Calibration, records: Records, wish: Wish, name: str) -> Calibration:
    """Make another certified point the default; its promise and thresholds stay as they are.

    Args:
        calibration: Of ``records`` and ``wish``.
        records: What it was made from.
        wish: What was asked for.
        name: Of a point in its ladder.
    """
    policy, found = calibration.policy, calibration.verdict
    at = policy.index(name)
    gates = policy.points[at].gates
    reading = Reading(scores=tuple(tier.score for tier in policy.tiers), answer=policy.answer)
    scored = Scored(records, with_labels=found.measure == "accuracy")
    judge = View(scored=scored, reading=reading, rows=records.split(wish.seed, wish.shares).check)
    done = replay(judge, gates, Costs.of(policy.tiers, wish.batch))
    worth_it, reason = pays(found.points[at], found.singles, sum(not gate.off for gate in gates))
    return Calibration(
        policy=replace(policy, default=name),
        verdict=replace(
            found,
            default=name,
            classes=class_drops(judge, done),
            cascade_pays=worth_it,
            reason=reason if worth_it else f"do not cascade. {reason}",
        ),
    )


def _way_out(loosest: dict[str, object], best: float, wish: Wish) -> str:
    needed, share = loosest["rows_needed"], max(wish.shares[2], 1e-9)
    if not isinstance(needed, int):
        return f"allow a drop of {best:.4f}; more rows like these would not do"
    everything = round(needed / share)
    return (
        f"allow a drop of {best:.4f}, or for {loosest['name']} ({loosest['drop']}) give about "
        f"{needed} check rows ({everything} rows in all)"
    )
