"""What the person who calibrates asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cascade_router.errors import CalibrationError
from cascade_router.policy import NAME

__all__ = ["LAST", "Goal", "Wish"]

LAST = "exact"
"""Name of the point that runs the last tier alone; it is always in the ladder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One operating point that is wanted; what is None does not matter.

    Attributes:
        drop: Accuracy (or agreement) lost against the last tier, at most; certified. The cheapest
            such point is taken. Without it the best point within the costs is, and the drop that
            can be certified is stated.
        mean_ms: Mean milliseconds per row, at most.
        worst_ms: Milliseconds of a row that runs every tier of the point, at most.
        efficiency: Where on the frontier, from 0 (best quality) to 1 (cheapest).
    """

    drop: float | None = None
    mean_ms: float | None = None
    worst_ms: float | None = None
    efficiency: float | None = None

    def __post_init__(self) -> None:
        """Refuse a goal that asks for nothing, or for the impossible."""
        if {self.drop, self.mean_ms, self.worst_ms, self.efficiency} == {None}:
            message = "calibrate: a goal asks for nothing"
            raise CalibrationError(message, hint=_GOALS)
        for name, value, top in (
            ("drop", self.drop, 1.0),
            ("efficiency", self.efficiency, 1.0),
            ("mean_ms", self.mean_ms, float("inf")),
            ("worst_ms", self.worst_ms, float("inf")),
        ):
            if value is not None and not (0 <= value <= top):
                message = f"calibrate: {name}: got {value}, expected 0 to {top:g}"
                raise CalibrationError(message, hint=_GOALS)
        if self.drop is not None and self.efficiency is not None:
            message = "calibrate: a goal names drop and efficiency; both place it on the frontier"
            raise CalibrationError(message, hint="name one of the two")


_GOALS = "give drop, mean_ms, worst_ms or efficiency"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """All points wanted, and how sure their promises must be.

    Attributes:
        goals: By name; ``exact`` is kept for the last tier alone.
        default: Point of a request that names none; it must be certified or calibration fails.
        delta: Probability, at most, that any promise of the ladder is broken.
        batch: Mean rows per batch that arrives.
        with_labels: Promise accuracy, not agreement; None: where the records hold labels.
        seed: Of the split and the folds.
        shares: Of the rows to fit, choose and check.
    """

    goals: Mapping[str, Goal] = field(
        default_factory=lambda: {
            "careful": Goal(drop=0.005),
            "balanced": Goal(drop=0.01),
            "fast": Goal(drop=0.02),
        }
    )
    default: str = "balanced"
    delta: float = 0.05
    batch: float = 8.0
    with_labels: bool | None = None
    seed: int = 0
    shares: tuple[float, float, float] = (0.3, 0.4, 0.3)

    def __post_init__(self) -> None:
        """Refuse names and levels that cannot be."""
        for name in self.goals:
            if NAME.fullmatch(name) is None or name == LAST:
                message = f"calibrate: a point cannot be called {name!r}"
                raise CalibrationError(message, hint=f"{NAME.pattern}, and not {LAST!r}")
        if self.default not in (*self.goals, LAST):
            message = f"calibrate: default {self.default!r} is none of {[*self.goals, LAST]}"
            raise CalibrationError(message, hint="name one of the points")
        if not 0 < self.delta < 1 or not self.batch > 0:
            message = f"calibrate: got delta {self.delta}, batch {self.batch}"
            raise CalibrationError(message, hint="0 < delta < 1 and batch > 0")
