"""What a fault is, and what is reported of it."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .judge import Kind
from .site import Site
from .traffic import Entry, Traffic

__all__ = ["Fault", "Report", "Tally", "Tell", "latency_ms", "often"]

Tell = Callable[[str], None]
"""Takes a sentence on what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of a fault.

    Attributes:
        times: How often it struck.
        counts: Requests by how they ended.
        figures: What was measured.
        note: The figures that the table tells, in a few words.
        broken: What must not have been; empty: survived.
        skipped: Why it could not be tried here; None: it was.
    """

    times: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    broken: list[str] = field(default_factory=list)
    skipped: str | None = None

    @property
    def survived(self) -> bool:
        """Nothing was broken."""
        return not self.broken

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return {
            "survived": self.survived,
            "times": self.times,
            "counts": self.counts,
            "figures": self.figures,
            "note": self.note,
            "broken": self.broken,
            "skipped": self.skipped,
        }


class Fault(Protocol):
    """A row of the table."""

    @property
    def name(self) -> str:
        """What ``--only`` takes."""

    @property
    def ground(self) -> Callable[[Path], AbstractContextManager[Any]]:
        """Where it is done: given an empty folder, a context manager; faults may share one."""

    @property
    def what(self) -> str:
        """The fault in words."""

    @property
    def required(self) -> str:
        """What must hold."""

    def run(self, site: Any, tell: Tell) -> Report:
        """Do it to a real server under load, and leave the server as it was.

        Args:
            site: The ground.
            tell: Takes progress.
        """


@dataclass
class Tally:
    """Gathers what a report needs while a fault runs.

    Attributes:
        timed: Whether what must be quick is held to it: not on a machine that others use, too.
        times: How often the fault struck.
        fell: How often the server itself died of it.
        away_s: Seconds until full service was back, of each time.
        broken: What must not have been.
    """

    timed: bool = True
    times: int = 0
    fell: int = 0
    away_s: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def demand(self, holds: bool, otherwise: str) -> None:
        """Note what is broken where something does not hold."""
        if not holds:
            self.broken.append(otherwise)

    def demand_in_time(self, holds: bool, otherwise: str) -> None:
        """Note what is broken where something is slower than it must be."""
        self.demand(holds or not self.timed, otherwise)

    def patience_s(self, within_s: float) -> float:
        """Say how long to wait for what must come within some time."""
        return within_s if self.timed else 4 * within_s

    def back(self, away: float | None, within_s: float, where: str) -> bool:
        """Note how long full service was away; say whether it is back."""
        if away is None:
            self.broken.append(f"{where}: full service did not come back")
            return False
        self.away_s.append(round(away, 2))
        self.demand_in_time(away <= within_s, f"{where}: full service was away for {away:.1f} s")
        return True

    def report(
        self,
        loads: Sequence[Traffic],
        site: Site,
        note: str = "",
        *,
        aside: Sequence[Traffic] = (),
        **figures: Any,
    ) -> Report:
        """Close the books; call it once the loads have ended.

        Args:
            loads: What was sent while the fault struck.
            site: The ground.
            note: What the table tells; default: how long full service was away.
            aside: What was sent before and afterwards: it must be right, too, and is not counted.
            figures: What was measured.
        """
        entries = [entry for one in loads for entry in one.entries]
        away = {"away_s": _spread(self.away_s), "away_each_s": self.away_s} if self.away_s else {}
        fell = {"server_fell": self.fell} if self.fell else {}
        alarms = [f"the server's log: {line}" for line in site.alarms()]
        return Report(
            times=self.times,
            counts={
                "sent": sum(one.sent for one in loads),
                **{kind.value: sum(one.counts()[kind.value] for one in loads) for kind in Kind},
            },
            figures={
                **away,
                **fell,
                "latency_ms": latency_ms(entries),
                "refused_by": _refusals(entries),
                **figures,
            },
            note=note or self._back_said(),
            broken=[
                *self.broken,
                *(t for one in (*loads, *aside) for t in one.troubles()),
                *alarms,
            ],
        )

    def _back_said(self) -> str:
        if not self.away_s:
            return ""
        away = _spread(self.away_s)
        return f"full service away for {away['median']:.1f} s, at most {away['longest']:.1f} s"


def often(times: int) -> str:
    """Say how often."""
    return "once" if times == 1 else f"{times:,} times"


def latency_ms(entries: Sequence[Entry], *kinds: Kind) -> dict[str, float]:
    """Give p50, p99 and the longest time of requests that ended in some way; default: answered."""
    wanted = kinds or (Kind.RIGHT, Kind.DEGRADED)
    took = sorted(1e3 * (e.ended - e.sent) for e in entries if e.kind in wanted)
    if not took:
        return {}
    p99 = took[min(int(0.99 * len(took)), len(took) - 1)]
    return {
        "p50": round(statistics.median(took), 1),
        "p99": round(p99, 1),
        "longest": round(took[-1], 1),
    }


def _refusals(entries: Sequence[Entry]) -> dict[str, int]:
    """Count refusals by their sentence, without what differs from request to request."""
    said = (re.sub(r"\d+", "N", e.text)[:120] for e in entries if e.kind is Kind.REFUSED)
    return dict(Counter(said).most_common(20))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 2), "longest": max(values)}
