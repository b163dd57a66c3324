"""What a plan found, as plain data.

Every figure is measured on the judge rows, on which nothing was chosen. ``quality`` is accuracy
where labels are used, agreement with the costliest expert where not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["CLOSE", "NEEDED", "PAYS", "PAYS_NOT", "Figures", "Gain", "Pick", "Plan"]

NEEDED, PAYS, PAYS_NOT, CLOSE = "needed", "pays", "does not pay", "too close to tell"
"""Verdicts on an expert."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one way of answering does to the judge rows.

    Attributes:
        experts: Names of those that run, in order.
        quality: Share of rows answered right.
        quality_error: Its standard error.
        drop: Quality of the costliest expert less this one.
        drop_error: Standard error of the drop, paired by row.
        cost_ms: Mean milliseconds per row.
        saving: 1 - cost / cost of the costliest expert alone.
        exit_shares: Share of rows that each of these experts answers.
    """

    experts: list[str]
    quality: float
    quality_error: float
    drop: float
    drop_error: float
    cost_ms: float
    saving: float
    exit_shares: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one expert brings to a pick: the cascade with it against the one without it.

    Both have their thresholds chosen for the same goal on the choosing rows. Errors hold what
    other judge rows would have changed (paired by row) and what other choosing rows would have
    (jackknife over folds).

    Attributes:
        expert: Its name.
        used: It is part of the pick; else it would be added.
        saved_ms: Mean milliseconds per row that it saves.
        saved_error: Standard error of that.
        quality: Share of right answers that it adds.
        quality_error: Standard error of that.
        verdict: ``needed`` if the goal is not met without it; else by what the goal leaves open,
            milliseconds or quality, and two standard errors of it: ``pays``, ``does not pay`` or
            ``too close to tell``.
    """

    expert: str
    used: bool
    saved_ms: float
    saved_error: float
    quality: float
    quality_error: float
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The sub-cascade for one goal.

    Attributes:
        name: Of the goal.
        goal: What it asks for, without what it leaves open.
        experts: Names, in order.
        thresholds: One per expert but the last, on the largest probability.
        figures: On the judge rows.
        aside: Quality that points chosen among so many were found to lose on fresh rows. A drop
            is aimed at with this and one standard error of it to spare.
        oracle_cost_ms: Of a perfect gate on the same experts.
        oracle_quality: The same.
        steps: The best cascade of one expert, of two, ... that meets the goal, measured.
        gains: What each expert of the pool brings, or would bring.
    """

    name: str
    goal: dict[str, float]
    experts: list[str]
    thresholds: list[float]
    figures: Figures
    aside: float
    oracle_cost_ms: float
    oracle_quality: float
    steps: list[Figures]
    gains: list[Gain]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a pool of experts is good for.

    Attributes:
        cascade: Name in the records.
        measure: ``accuracy``, or ``agreement`` with the costliest expert.
        experts: Names, cheapest first.
        rows: Rows to choose on, to judge on, and left for calibration.
        batch: Mean rows per batch assumed to arrive.
        alone: Every expert alone.
        picks: One per goal.
        ceiling: Share of judge rows that at least one expert answers right.
        oracle_cost_ms: Of a perfect gate on the whole pool.
        oracle_quality: The same.
        tried: Sub-cascades that were compared.
    """

    cascade: str
    measure: str
    experts: list[str]
    rows: dict[str, int]
    batch: float
    alone: list[Figures]
    picks: list[Pick]
    ceiling: float
    oracle_cost_ms: float
    oracle_quality: float
    tried: int

    def as_json(self) -> dict[str, Any]:
        """Give plain values that ``json`` writes."""
        return asdict(self)
