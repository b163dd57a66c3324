"""What a sweep found: one candidate at one level, tier by tier, and the answer of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from .levels import Level
from .tier_figures import TierFigures

__all__ = ["Found", "Measured", "Target", "in_order"]

_STATES = ("ok", "behind", "failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One candidate at one level. A figure that cannot be given is NaN.

    Attributes:
        candidate: Its name.
        level: The load.
        state: ``ok``; ``behind``: fewer rows answered than were offered; ``failed``: nothing
            could be measured.
        note: Why it failed.
        when: When it ended, ISO 8601.
        requests: Requests that ended in the measurement.
        rows_per_s: Rows answered per second.
        p50_ms: Median latency from when a request was sent; p90_ms, p95_ms, p99_ms likewise.
        rows_spread: Of the throughput of its three windows, (most - least) / most: 0 = steady.
        latency_spread: Of their mean latency, likewise.
        tiers: Cheapest first.
    """

    candidate: str
    level: Level
    state: str
    note: str = ""
    when: str
    requests: float = math.nan
    rows_per_s: float = math.nan
    p50_ms: float = math.nan
    p90_ms: float = math.nan
    p95_ms: float = math.nan
    p99_ms: float = math.nan
    rows_spread: float = math.nan
    latency_spread: float = math.nan
    tiers: tuple[TierFigures, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Write for machines; NaN becomes null."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        level, tiers = values.pop("level"), values.pop("tiers")
        head = {"candidate": values.pop("candidate"), "load": level.load, "level": level.value}
        head |= {"seconds": level.seconds, **values}
        return _plain(head) | {"tiers": [_plain(asdict(tier)) for tier in tiers]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote.

        Raises:
            ValueError: If it is something else.
        """
        try:
            known = _known(values)
            level = Level(
                load=known.pop("load"), value=known.pop("level"), seconds=known.pop("seconds")
            )
            tiers = tuple(TierFigures(**_known(tier)) for tier in known.pop("tiers"))
            one = cls(level=level, tiers=tiers, **known)
        except (KeyError, TypeError, AttributeError) as exc:
            message = f"no measured level: {exc}"
            raise ValueError(message) from exc
        if one.state not in _STATES:
            message = f"state: got {one.state!r}, expected one of {', '.join(_STATES)}"
            raise ValueError(message)
        return one


@dataclass(frozen=True, slots=True)
class Target:
    """A latency that a share of the requests must keep."""

    percentile: Literal[95, 99]
    ms: float

    def latency(self, one: Measured) -> float:
        """Give the latency that is held against the target, in ms."""
        return one.p95_ms if self.percentile == 95 else one.p99_ms

    def met(self, one: Measured) -> bool:
        """Say whether a level keeps it: never where rows are left behind or requests fail."""
        return one.state == "ok" and self.latency(one) <= self.ms

    def __str__(self) -> str:
        return f"p{self.percentile} <= {self.ms:g} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer of one search.

    Attributes:
        candidate: Its name.
        target: What was asked for.
        level: The level that holds, as measured at last; None: none does.
        best: Of the rates that were tried, the one with the lowest latency; None: all failed.
        capped: The target holds at the highest rate that was tried, so there may be more.
    """

    candidate: str
    target: Target
    level: Measured | None
    best: Measured | None
    capped: bool = False

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return {
            "candidate": self.candidate,
            "percentile": self.target.percentile,
            "target_ms": self.target.ms,
            "rate": None if self.level is None else self.level.level.value,
            "capped": self.capped,
            "level": None if self.level is None else self.level.as_json(),
            "best": None if self.best is None else self.best.as_json(),
        }

    def refusal(self) -> str:
        """Say how near it came where no rate holds."""
        if self.best is None:
            return "no rate could be measured"
        latency = f"p{self.target.percentile} {self.target.latency(self.best):.1f} ms"
        return f"best {latency} at {self.best.level}"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: (round(value, 4) if math.isfinite(value) else None)
        if isinstance(value, float)
        else value
        for key, value in values.items()
    }


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: math.nan if value is None else value for key, value in values.items()}


def in_order(many: Iterable[Measured], candidates: Sequence[str]) -> list[Measured]:
    """Order by candidate as given, then by load and level."""
    place = {name: i for i, name in enumerate(candidates)}
    return sorted(
        many,
        key=lambda one: (
            place.get(one.candidate, len(place)),
            one.candidate,
            one.level.load,
            one.level.value,
            one.level.seconds,
        ),
    )
