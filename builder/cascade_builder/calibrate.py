"""Calibrate: from records and a wish to a policy with promises, and a verdict with the numbers.

    records = Records.load(path)
    calibration = calibrate(records, Wish(goals={"balanced": Goal(drop=0.01)}))
    calibration.policy.to_json(), calibration.verdict.as_json()

No expert runs. Three disjoint sets of rows: *fit* teaches temperatures and learned scores, *choose*
picks thresholds and what is kept of the former (a reading that learned nothing chooses on the fit
rows too), *check* certifies and reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cascade_router.errors import CalibrationError, RecordsError
from cascade_router.policy import OperatingPoint, Policy, Tier

from . import verdict as found
from .cost_tables import Costs
from .ladder import Certified, Refused, certified_ladder
from .pool import Search, shortlist
from .records import Records, Split
from .replay import Reading, View, replay
from .scored import Scored
from .selection import Trial, optimism, readings_from, search_for, select, temperatures
from .verdict import Measured, Verdict
from .wish import LAST, Wish

__all__ = ["Calibration", "Choice", "calibrate", "choose"]

_HEADLINE = 0.005
"""Drop at which the policy efficiency is stated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What ``calibrate`` hands back.

    Attributes:
        policy: To be written as ``policy.json``.
        verdict: To be drawn as a report.
    """

    policy: Policy
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What was learned and kept before any promise.

    Attributes:
        view: The reading, on the rows thresholds may be chosen on.
        search: Finds the points.
        luck: What chosen points lose on fresh rows beyond what they lost on their own.
        fitted: Temperature per tier, used or not.
        trials: What was tried.
    """

    view: View
    search: Search
    luck: float
    fitted: list[float]
    trials: list[Trial]


def calibrate(
    records: Records, wish: Wish, *, provenance: Mapping[str, Any] | None = None
) -> Calibration:
    """Find certified operating points.

    Args:
        records: What the built tiers said, and their cost.
        wish: Points wanted and how sure.
        provenance: Kept in the policy as it is, beside seed, rows and reading.

    Raises:
        CalibrationError: If the default point cannot be certified, or a cost cannot be met.
        RecordsError: If there are too few rows or no costs.
    """
    with_labels = records.labels is not None if wish.with_labels is None else wish.with_labels
    if with_labels and records.labels is None:
        message = "calibrate: accuracy is to be promised, but the records hold no labels"
        raise CalibrationError(message, hint="record labelled rows, or promise agreement")
    split = records.split(wish.seed, wish.shares)
    if min(len(split.choose), len(split.check)) < 2:
        message = f"calibrate: {len(records)} rows leave {len(split.check)} to check, expected more"
        raise RecordsError(message, hint="record more rows")
    scored = Scored(records, with_labels=with_labels)
    costs = Costs.of(_tiers(records, None), wish.batch)
    drops = [goal.drop for goal in wish.goals.values() if goal.drop]
    default = wish.goals.get(wish.default)
    around = default.drop if default and default.drop else min(drops, default=_HEADLINE)
    choice = choose(scored, costs, split, around, wish.seed)
    certified, refused = certified_ladder(
        choice.view, split.check, costs, wish, choice.search, choice.luck
    )
    judge = choice.view.at(split.check)
    points = [found.measured(c.name, judge, c.gates, costs, c.certificate) for c in certified]
    order = sorted(range(len(points)), key=lambda i: (points[i].cost_ms, -points[i].quality))
    certified, points = [certified[i] for i in order], [points[i] for i in order]
    note = {
        "seed": wish.seed,
        "rows": _rows(split),
        "batch": wish.batch,
        "reading": choice.view.reading.name,
    }
    policy = Policy(
        cascade=records.cascade,
        activation=records.activation,
        n_classes=records.n_classes,
        answer=choice.view.reading.answer,
        label_tolerance=records.label_tolerance,
        tiers=_tiers(records, choice.view.reading),
        points=tuple(
            _point(c, p, "accuracy" if with_labels else "agreement", len(split.check))
            for c, p in zip(certified, points, strict=True)
        ),
        default=wish.default,
        provenance=dict(provenance or {}) | note,
    )
    return Calibration(
        policy=policy, verdict=_verdict(choice, costs, wish, split, certified, points, refused)
    )


def choose(scored: Scored, costs: Costs, split: Split, around: float, seed: int) -> Choice:
    """Learn on the fit rows and keep what earns its place, without a look at the check rows.

    Args:
        scored: All rows.
        costs: Tables of all tiers.
        split: Of the rows.
        around: Drop that matters most.
        seed: Of all folds.
    """
    fitted = temperatures(scored, split.fit)
    readings = readings_from(scored, split.fit, fitted)
    pooled = np.sort(np.concatenate([split.fit, split.choose]))
    among = shortlist(View(scored=scored, reading=readings[0], rows=pooled), costs)
    reading, trials = select(
        scored,
        readings,
        costs,
        fit=split.fit,
        choose=split.choose,
        wish=around,
        seed=seed,
        among=among,
    )
    rows = split.choose if reading.trained else pooled
    view = View(scored=scored, reading=reading, rows=rows)
    search, trial = search_for(view, costs, around, seed, among)
    luck = optimism(view, costs, around, seed, search)
    return Choice(view=view, search=search, luck=luck, fitted=fitted, trials=[*trials, trial])


def _tiers(records: Records, reading: Reading | None) -> tuple[Tier, ...]:
    tiers = tuple(
        Tier(name=t.name, model=t.model, digest=t.digest, cost_ms=dict(t.cost_ms))
        for t in records.tiers
    )
    if reading is None:
        return tiers
    return tuple(
        Tier(name=t.name, model=t.model, digest=t.digest, cost_ms=t.cost_ms, score=score)
        for t, score in zip(tiers, reading.scores, strict=True)
    )


def _point(certified: Certified, point: Measured, measure: str, n_check: int) -> OperatingPoint:
    """Name the quality for what it is; the verdict holds what a policy need not carry."""
    return OperatingPoint(
        name=certified.name,
        gates=certified.gates,
        measured={
            measure: point.quality,
            "drop": point.drop,
            "cost_ms": point.cost_ms,
            "saving": point.saving,
            "rows": n_check,
        },
        certificate=certified.certificate,
    )


def _rows(split: Split) -> dict[str, int]:
    return {"fit": len(split.fit), "choose": len(split.choose), "check": len(split.check)}


def _verdict(
    choice: Choice,
    costs: Costs,
    wish: Wish,
    split: Split,
    certified: list[Certified],
    points: list[Measured],
    refused: list[Refused],
) -> Verdict:
    view, records = choice.view, choice.view.scored.records
    judge = view.at(split.check)
    alone = found.singles(judge, costs)
    pool = choice.search.pool(view, costs)
    half = pool.gates[pool.cheapest(_HEADLINE - choice.luck)]
    # An exact default is judged by the cheapest point beside it, if there is one.
    named = [c.name for c in certified]
    shown = wish.default if wish.default != LAST else named[0]
    at = named.index(shown)
    n_on = sum(not gate.off for gate in certified[at].gates)
    cascade_pays, reason = found.pays(points[at], alone, n_on)
    default = certified[named.index(wish.default)].gates
    return Verdict(
        cascade=records.cascade,
        measure="accuracy" if view.scored.with_labels else "agreement",
        tiers=[tier.name for tier in records.tiers],
        rows=_rows(split),
        batch=wish.batch,
        level=1 - wish.delta,
        reading=view.reading.name,
        search=choice.search.kind,
        trials=[asdict(trial) for trial in choice.trials],
        luck=choice.luck,
        points=points,
        default=wish.default,
        refused=[asdict(refusal) for refusal in refused],
        singles=alone,
        curve=found.curve_of(pool, judge, costs),
        half_point=found.measured("half a point", judge, half, costs),
        reliability=found.reliability(judge, choice.fitted),
        classes=found.class_drops(judge, replay(judge, default, costs)),
        cascade_pays=cascade_pays,
        reason=reason if cascade_pays else f"do not cascade. {reason}",
    )
