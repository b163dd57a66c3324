"""What a calibration found, as plain data: a report is drawn from this alone.

Every figure is measured on the check rows, on which nothing was chosen. ``quality`` is accuracy
where labels are used, agreement with the last tier where not. Shapes: n rows, K tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.gate import Gate
from cascade_router.scores import Floats, Score

from .cost_tables import Costs
from .pool import Pool
from .replay import Replay, View, gates_from, replay

__all__ = [
    "BINS",
    "Curve",
    "Measured",
    "Reliability",
    "Verdict",
    "class_drops",
    "curve_of",
    "measured",
    "oracle",
    "pays",
    "reliability",
    "singles",
]

BINS = 15
"""Bins of a reliability diagram (Guo et al. 2017)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one way of answering does to the check rows.

    Attributes:
        name: Of the point, or of the expert alone.
        quality: Share of rows answered right.
        drop: Quality of the last tier less this one.
        drop_error: Standard error of the drop, paired by row.
        cost_ms: Mean milliseconds per row.
        worst_ms: Milliseconds of a row that runs every tier that is on.
        saving: 1 - cost / cost of the last tier alone.
        oracle_share: Saving as a share of the oracle gate's.
        exit_shares: Share of rows each tier answers.
        reach: Share of rows each tier runs for.
        random_quality: Of random escalation with the same exit shares, hence at the same cost.
        certificate: As in ``policy.json``; None for what is only compared with.
    """

    name: str
    quality: float
    drop: float
    drop_error: float
    cost_ms: float
    worst_ms: float
    saving: float
    oracle_share: float
    exit_shares: list[float]
    reach: list[float]
    random_quality: float
    certificate: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The frontier's points, chosen on the choosing rows and measured on the check rows.

    Attributes:
        cost_ms: Mean milliseconds per row, point by point, cheapest first.
        quality: Share of rows answered right.
        oracle_cost_ms: Of the oracle gate.
        oracle_quality: Of the oracle gate: it stops at the first tier no worse than the last.
    """

    cost_ms: list[float]
    quality: list[float]
    oracle_cost_ms: float
    oracle_quality: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """How far a tier's confidence can be taken at its word, before and after its temperature.

    Attributes:
        tier: The expert's name.
        temperature: Fitted on the fit rows.
        used: The policy serves with it.
        before: Per bin of confidence: mean confidence, share right, rows; None where empty.
        after: The same at the temperature.
        error_before: Expected calibration error over the bins.
        error_after: The same at the temperature.
    """

    tier: str
    temperature: float
    used: bool
    before: list[list[float] | None]
    after: list[list[float] | None]
    error_before: float
    error_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All that a report shows.

    Attributes:
        cascade: Its name.
        measure: ``accuracy`` or ``agreement``.
        tiers: Names of the experts, cheapest first.
        rows: Rows to fit, choose and check.
        batch: Mean rows per batch assumed to arrive.
        level: Of the ladder's certificate.
        reading: How the logits are read, in words.
        search: How thresholds were searched, in words.
        trials: What was tried to read and search better: name, gain, error, kept.
        luck: Quality the search was found to lose on fresh rows; every goal allows for it.
        points: The ladder, cheapest first.
        default: Name of its default point.
        refused: Goals that could not be certified.
        singles: Every expert alone.
        curve: The frontier and the oracle.
        half_point: The cheapest point meant to drop at most 0.005; ``oracle_share`` is the policy
            efficiency.
        reliability: Per tier with a teacher.
        classes: Per class with rows: class, rows, quality of the last tier, quality of the default.
        cascade_pays: Whether to cascade at all.
        reason: Why, with the numbers.
    """

    cascade: str
    measure: str
    tiers: list[str]
    rows: dict[str, int]
    batch: float
    level: float
    reading: str
    search: str
    trials: list[dict[str, Any]]
    luck: float
    points: list[Measured]
    default: str
    refused: list[dict[str, Any]]
    singles: list[Measured]
    curve: Curve
    half_point: Measured
    reliability: list[Reliability]
    classes: list[list[float]]
    cascade_pays: bool
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Give plain values that ``json`` writes."""
        return asdict(self)


def measured(
    name: str,
    view: View,
    gates: Sequence[Gate],
    costs: Costs,
    certificate: dict[str, Any] | None = None,
) -> Measured:
    """Measure a point on the view's rows."""
    done = replay(view, gates, costs)
    n, n_tiers = len(view), len(gates)
    lost = view.reference.astype(np.int64) - done.right
    alone = [float(view.right([k]).mean()) for k in range(n_tiers)]
    full = costs.alone(n_tiers - 1)
    saving = 1 - done.cost_ms / full
    best = 1 - oracle(view, costs)[0] / full
    shares = done.exit_shares
    return Measured(
        name=name,
        quality=float(done.right.mean()),
        drop=float(lost.mean()),
        drop_error=float(lost.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0,
        cost_ms=done.cost_ms,
        worst_ms=sum(costs.alone(k) for k, gate in enumerate(gates) if not gate.off),
        saving=saving,
        oracle_share=saving / best if best > 0 else 0.0,
        exit_shares=shares,
        reach=[float(r) for r in done.ran.mean(axis=1)],
        random_quality=float(np.dot(shares, alone)),
        certificate=certificate,
    )


def singles(view: View, costs: Costs) -> list[Measured]:
    """Measure every expert alone."""
    n_tiers = view.scored.n_tiers
    names = [tier.name for tier in view.scored.records.tiers]
    return [measured(names[k], view, gates_from([k], [], n_tiers), costs) for k in range(n_tiers)]


def oracle(view: View, costs: Costs, tiers: Sequence[int] | None = None) -> tuple[float, float]:
    """Give cost and quality of the gate that stops at the first tier no worse than the last.

    Args:
        view: Rows and how they are read.
        costs: Tables of all tiers.
        tiers: Those that run, ascending; None: all.
    """
    among = range(view.scored.n_tiers) if tiers is None else tiers
    right = np.stack([view.right([k]) for k in among])
    stops = np.argmax(right >= right[-1], axis=0)
    cost = sum(float(costs.spent(k, np.array((stops >= j).mean()))) for j, k in enumerate(among))
    return cost, float(right[stops, np.arange(right.shape[1])].mean())


def curve_of(pool: Pool, view: View, costs: Costs, most: int = 80) -> Curve:
    """Measure a frontier's points on other rows."""
    at = np.unique(np.linspace(0, len(pool) - 1, min(len(pool), most)).round().astype(int))
    done = [replay(view, pool.gates[i], costs) for i in at]
    cost, quality = oracle(view, costs)
    return Curve(
        cost_ms=[d.cost_ms for d in done],
        quality=[float(d.right.mean()) for d in done],
        oracle_cost_ms=cost,
        oracle_quality=quality,
    )


def reliability(view: View, fitted: Sequence[float]) -> list[Reliability]:
    """Compare confidence with the share right, in bins, per tier that has a teacher."""
    scored, out = view.scored, []
    for k, tier in enumerate(scored.records.tiers):
        if not scored.with_labels and k == scored.n_tiers - 1:
            continue
        sides = []
        for temperature in (1.0, fitted[k]):
            confidence = scored.score(k, Score(temperature=temperature))[view.rows]
            sides.append(_bins(confidence, view.right([k])))
        out.append(
            Reliability(
                tier=tier.name,
                temperature=fitted[k],
                used=view.reading.scores[k].temperature == fitted[k] != 1.0,
                before=sides[0][0],
                after=sides[1][0],
                error_before=sides[0][1],
                error_after=sides[1][1],
            )
        )
    return out


def class_drops(view: View, done: Replay) -> list[list[float]]:
    """List class, rows, quality of the last tier and quality of the point, per class with rows."""
    truth = np.asarray(view.scored.truth[view.rows], dtype=np.int64)
    classes, at, rows = np.unique(truth, return_inverse=True, return_counts=True)
    before = np.bincount(at, weights=view.reference, minlength=len(classes)) / rows
    after = np.bincount(at, weights=done.right, minlength=len(classes)) / rows
    table = zip(classes.tolist(), rows.tolist(), before.tolist(), after.tolist(), strict=True)
    return [list(row) for row in table]


def pays(point: Measured, alone: Sequence[Measured], n_on: int) -> tuple[bool, str]:
    """Say whether a point beats every expert of no greater cost, and why, with the numbers."""
    full = alone[-1]
    figures = f"{point.name}: quality {point.quality:.4f} at {point.cost_ms:.4g} ms per row"
    cheaper = [single for single in alone if single.cost_ms <= point.cost_ms]
    rival = max(cheaper, key=lambda single: single.quality, default=None)
    if n_on == 1:
        return False, f"{figures}: one expert alone does what was asked"
    if point.cost_ms >= full.cost_ms:
        return False, f"{figures}; {full.name} alone costs {full.cost_ms:.4g} ms"
    if rival is not None and rival.quality >= point.quality:
        return False, (
            f"{figures}; {rival.name} alone has {rival.quality:.4f} at {rival.cost_ms:.4g} ms"
        )
    return True, (
        f"{figures}; {full.name} alone has {full.quality:.4f} at {full.cost_ms:.4g} ms, "
        f"so {100 * point.saving:.0f} % is saved"
    )


def _bins(
    confidence: Floats, right: npt.NDArray[np.bool_]
) -> tuple[list[list[float] | None], float]:
    """Fill the bins of a reliability diagram and give the expected calibration error."""
    known = np.isfinite(confidence)
    confidence, right = confidence[known], right[known]
    at = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    rows = np.bincount(at, minlength=BINS)
    means = np.bincount(at, weights=confidence, minlength=BINS) / np.maximum(rows, 1)
    shares = np.bincount(at, weights=right, minlength=BINS) / np.maximum(rows, 1)
    error = float((rows * np.abs(shares - means)).sum() / max(len(confidence), 1))
    bins = [
        [float(m), float(s), int(r)] if r else None
        for m, s, r in zip(means, shares, rows, strict=True)
    ]
    return bins, error
