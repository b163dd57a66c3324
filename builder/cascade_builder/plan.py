"""Plan: from records of a pool of experts to the sub-cascade worth building for each goal.

    records = Records.load(path)
    found = plan(records, {"balanced": Goal(drop=0.01), "cheap": Goal(mean_ms=5)})
    found.picks[0].experts, found.as_json()

Experts are ordered by cost and read by their largest probability; `calibrate` may read them
better. Three disjoint sets of rows: sub-cascades and thresholds are picked on *choose*, every
figure is measured on *judge*, and the check rows of a later `calibrate` with the same seed are not
looked at, so that its promise stays untouched. Shapes: n rows, K experts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from cascade_router.errors import CalibrationError, RecordsError
from cascade_router.gate import Gate
from cascade_router.policy import Tier
from cascade_router.scores import Floats

from .calibration import usual_goals
from .candidates import Aim, Candidate, Candidates, jackknife
from .cost_tables import Costs
from .planned import CLOSE, NEEDED, PAYS, PAYS_NOT, Figures, Gain, Pick, Plan
from .pool import Tiers
from .records import Records
from .replay import Replay, View, gates_from, replay
from .scored import Scored
from .selection import paired, plain
from .verdict import oracle
from .wish import Goal, Wish

__all__ = ["MIN_ROWS", "MOST_EXPERTS", "by_cost", "plan"]

Gates = tuple[Gate, ...]

Error = tuple[float, float]
"""A mean and its standard error."""

MIN_ROWS = 100
"""Rows to choose on, and rows to measure on, at least: with fewer, a point is one row."""

MOST_EXPERTS = 4
"""Experts in a cascade, at most, if nobody says."""

_CLEAR = 2.0
"""Standard errors from zero at which a difference is told from luck."""


def plan(
    records: Records,
    goals: Mapping[str, Goal],
    *,
    batch: float | None = None,
    with_labels: bool | None = None,
    most: int = MOST_EXPERTS,
    seed: int = 0,
    tell: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Pick a sub-cascade of a pool for every goal.

    Args:
        records: What every expert of the pool said about the same rows, and what it costs.
        goals: By name; drops are against the costliest expert. No ``efficiency``: it names a
            place on one cascade's frontier. Empty: ``usual_goals``, and the best cascades for half
            and for a quarter of what the costliest expert costs, where so little buys any.
        batch: Mean rows per batch that arrives; None: as ``calibrate`` assumes.
        with_labels: Quality is accuracy, not agreement; None: where the records hold labels.
        most: Experts in a cascade, at most.
        seed: Of the split, as in ``calibrate``.
        tell: Takes progress.

    Raises:
        CalibrationError: If a goal cannot be met by any cascade of the pool, or makes no sense.
        RecordsError: If there are too few rows or experts, or no costs.
    """
    usual = Wish()
    arrives = usual.batch if batch is None else batch
    labelled = records.labels is not None if with_labels is None else with_labels
    if labelled and records.labels is None:
        message = "plan: accuracy is asked for, but the records hold no labels"
        raise CalibrationError(message, hint="record labelled rows, or plan for agreement")
    records = by_cost(records, arrives)
    split = records.split(seed, usual.shares)
    costs = Costs.of(_tiers(records), arrives)
    goals = goals or _usual(len(split.fit), [costs.alone(k) for k in range(len(records.tiers))])
    _check(records, goals, len(split.choose), len(split.fit))
    scored = Scored(records, with_labels=labelled)
    view = View(scored=scored, reading=plain(scored.n_tiers), rows=split.choose)
    search = Candidates(view, costs, seed, min(most, scored.n_tiers))
    work = _Work(search, view.at(split.fit))
    picks = []
    for name, goal in goals.items():
        tell(f"planning for {name}")
        picks.append(work.pick(name, goal))
    judge = work.judge
    right = np.stack([judge.right([k]) for k in range(scored.n_tiers)])
    cost, quality = oracle(judge, costs)
    return Plan(
        cascade=records.cascade,
        measure="accuracy" if labelled else "agreement",
        experts=work.names,
        rows={"choose": len(split.choose), "judge": len(split.fit), "left": len(split.check)},
        batch=arrives,
        alone=[work.figures(*work.alone(k)) for k in range(scored.n_tiers)],
        picks=picks,
        ceiling=float(right.any(axis=0).mean()),
        oracle_cost_ms=cost,
        oracle_quality=quality,
        tried=search.tried,
    )


def by_cost(records: Records, batch: float) -> Records:
    """Order the experts cheapest first: a cascade asks them in this order."""
    costs = Costs.of(_tiers(records), batch)
    order = sorted(range(len(records.tiers)), key=costs.alone)
    return replace(records, tiers=tuple(records.tiers[k] for k in order))


class _Work:
    """Measures what the search finds, on the judge rows."""

    def __init__(self, search: Candidates, judge: View) -> None:
        self.judge = judge
        self.names = [tier.name for tier in judge.scored.records.tiers]
        self._search = search
        self._costs = search.costs

    def pick(self, name: str, goal: Goal) -> Pick:
        """Find the sub-cascade for a goal and measure it.

        Raises:
            CalibrationError: If none meets it.
        """
        aim = self._search.aim(goal)
        bests = self._search.best_by_size(aim)
        if not bests:
            raise self._out_of_reach(name, goal)
        kept = self._search.simplest(bests, aim)
        gates = kept.gates(aim)
        cost, quality = oracle(self.judge, self._costs, kept.tiers)
        return Pick(
            name=name,
            goal={key: value for key, value in asdict(goal).items() if value is not None},
            experts=self._named(kept.tiers),
            thresholds=[float(gates[k].threshold) for k in kept.tiers[:-1]],
            figures=self.figures(kept.tiers, replay(self.judge, gates, self._costs)),
            aside=aim.aside,
            oracle_cost_ms=cost,
            oracle_quality=quality,
            steps=[
                self.figures(one.tiers, replay(self.judge, one.gates(aim), self._costs))
                for one in bests
            ],
            gains=[self._gain(k, kept, aim) for k in range(len(self.names))],
        )

    def alone(self, tier: int) -> tuple[Tiers, Replay]:
        """Let one expert answer every row."""
        gates = gates_from([tier], [], len(self.names))
        return (tier,), replay(self.judge, gates, self._costs)

    def figures(self, tiers: Tiers, done: Replay) -> Figures:
        """Sum up what was done to the judge rows."""
        drop, drop_error = paired(self.judge.reference.astype(np.float64) - done.right)
        quality, quality_error = paired(done.right.astype(np.float64))
        shares = done.exit_shares
        return Figures(
            experts=self._named(tiers),
            quality=quality,
            quality_error=quality_error,
            drop=drop,
            drop_error=drop_error,
            cost_ms=done.cost_ms,
            saving=1 - done.cost_ms / self._costs.alone(len(self.names) - 1),
            exit_shares=[shares[k] for k in tiers],
        )

    def _gain(self, tier: int, kept: Candidate, aim: Aim) -> Gain:
        used = tier in kept.tiers
        if used and len(kept.tiers) == 1:
            # Without its only expert a pick is the nearest that another one alone can do.
            others = [self._search.of((k,)) for k in range(len(self.names)) if k != tier]
            other = min(others, key=lambda one: one.misses(aim))
        else:
            other = self._search.of(tuple(sorted(set(kept.tiers) ^ {tier})))
        more, less = (kept, other) if used else (other, kept)
        saved, quality = self._differences(more, less, aim)
        reaches = other.meets(aim)
        return Gain(
            expert=self.names[tier],
            used=used,
            saved_ms=saved[0],
            saved_error=saved[1],
            quality=quality[0],
            quality_error=quality[1],
            verdict=_verdict(
                saved if aim.goal.drop is not None else quality, used=used, reaches=reaches
            ),
        )

    def _differences(self, more: Candidate, less: Candidate, aim: Aim) -> tuple[Error, Error]:
        """Give milliseconds saved and quality added by ``more``, each with its standard error."""

        def both(a: Gates, b: Gates) -> tuple[Floats, Floats]:
            one, two = (replay(self.judge, gates, self._costs) for gates in (a, b))
            return two.spent_ms - one.spent_ms, one.right.astype(np.float64) - two.right

        here = both(more.gates(aim), less.gates(aim))
        folds = zip(more.fold_gates(aim), less.fold_gates(aim), strict=True)
        means = np.array([[part.mean() for part in both(a, b)] for a, b in folds])
        out = []
        for values, by_fold in zip(here, means.T, strict=True):
            mean, error = paired(values)
            out.append((mean, float(np.hypot(error, jackknife(by_fold)))))
        return out[0], out[1]

    def _named(self, tiers: Tiers) -> list[str]:
        return [self.names[k] for k in tiers]

    def _out_of_reach(self, name: str, goal: Goal) -> CalibrationError:
        cheapest = self._costs.alone(0)
        wanted = ", ".join(
            f"{key} {value:g}" for key, value in asdict(goal).items() if value is not None
        )
        message = f"plan: goal {name!r} ({wanted}): no cascade of this pool meets it"
        hint = f"the cheapest expert alone, {self.names[0]!r}, costs {cheapest:.4g} ms a row"
        return CalibrationError(message, hint=f"{hint}; allow more cost or a larger drop")


def _usual(n_judge: int, alone_ms: Sequence[float]) -> dict[str, Goal]:
    budgets = {"half": alone_ms[-1] / 2, "quarter": alone_ms[-1] / 4}
    affordable = {name: Goal(mean_ms=ms) for name, ms in budgets.items() if ms >= alone_ms[0]}
    return usual_goals(n_judge) | affordable


def _verdict(gain: Error, *, used: bool, reaches: bool) -> str:
    """Say whether an expert is worth its place, as far as the rows can tell."""
    if not reaches:
        return NEEDED if used else PAYS_NOT
    mean, error = gain
    if mean > _CLEAR * error:
        return PAYS
    return PAYS_NOT if mean <= -_CLEAR * error else CLOSE


def _check(records: Records, goals: Mapping[str, Goal], n_choose: int, n_judge: int) -> None:
    """Refuse what no plan can be made of."""
    if len(records.tiers) < 2:
        message = f"plan: got {len(records.tiers)} expert, expected at least 2 to choose from"
        raise RecordsError(message, hint="add [[expert]] tables to the spec, build and record")
    if min(n_choose, n_judge) < MIN_ROWS:
        message = (
            f"plan: {len(records)} rows leave {n_choose} to choose on and {n_judge} to measure on, "
            f"expected at least {MIN_ROWS} each"
        )
        needed = -(-MIN_ROWS * len(records) // max(min(n_choose, n_judge), 1))
        raise RecordsError(message, hint=f"record about {max(needed, 340)} rows or more")
    for name, goal in goals.items():
        if goal.efficiency is not None:
            message = f"plan: goal {name!r} asks for an efficiency, which is a place on one ladder"
            raise CalibrationError(message, hint="give drop, mean-ms or worst-ms")
        if goal.drop is not None and 0 < goal.drop * n_judge < 1:
            message = (
                f"plan: goal {name!r}: a drop of {goal.drop:g} is less than one of the "
                f"{n_judge} rows it would be measured on"
            )
            raise CalibrationError(message, hint="allow a larger drop, or record more rows")


def _tiers(records: Records) -> list[Tier]:
    return [
        Tier(name=t.name, model=t.model, digest=t.digest, cost_ms=dict(t.cost_ms))
        for t in records.tiers
    ]
