"""SIGSTOP: an expert that neither answers nor dies."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import psutil

from .fault import Report, Tally, Tell, latency_ms, often
from .grounds import every_tier_called
from .judge import Excuse, Kind
from .kill import BACK_S, excused, pace, settle
from .site import Site, alive
from .traffic import Traffic

__all__ = ["StopTier"]

_CALM_S = 4.0
"""Of traffic whose latency is compared, before and afterwards."""

_GLANCE_S = 1.0
"""The same where nothing is held to a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTier:
    """Stop all processes of an expert for a while, the tiers in turn.

    A stop ends early where the supervisor takes the tier for dead and starts it anew.

    Attributes:
        times: Stops in all.
        seconds: Of each.
        timed: Whether what must be quick is held to it.
    """

    name: ClassVar[str] = "stop-tier"
    ground = staticmethod(every_tier_called)
    times: int = 6
    seconds: float = 5.0
    timed: bool = True

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"SIGSTOP of a tier for up to {self.seconds:g} s, each in turn, {often(self.times)}"

    @property
    def required(self) -> str:
        """What must hold."""
        return (
            "as above, counted from the end of the stop; no pile-up: latency afterwards as before"
        )

    def run(self, site: Site, tell: Tell) -> Report:
        """Stop, let go on, wait for full service, compare latencies."""
        tally = Tally(timed=self.timed)
        before: dict[str, float] = {}
        after: dict[str, float] = {}  # the worst stop
        lasted: list[float] = []
        with site.traffic(pace(timed=self.timed)) as traffic:
            tiers = range(len(site.tier_models))
            settle(traffic, tiers)
            before = self._calm(traffic)
            for i in range(self.times):
                tier = i % len(tiers)
                where = f"stop {i + 1}, tier {tier}"
                victims = site.stubs(site.tier_models[tier])
                tally.demand(bool(victims), f"{where}: there is no process to stop")
                excuse = Excuse(tiers=frozenset({tier}))
                within_s = tally.patience_s(BACK_S)
                with excused(site, traffic, excuse, tally, where):
                    lasted.append(self._stop(victims))
                    since = time.monotonic()
                    away = traffic.wait_whole(
                        since, tiers=tiers, within_s=within_s, whole=site.whole
                    )
                tally.times += 1
                if not tally.back(away, BACK_S, where):
                    break
                tell(f"stop {i + 1} of {self.times}: tier {tier}, back after {away:.1f} s")
                calm = self._calm(traffic)
                limit = 3 * before["p99"] + 100
                said = f"{where}: p99 afterwards {calm['p99']} ms, before {before['p99']} ms"
                tally.demand_in_time(calm["p99"] <= limit, said)
                after = max(after or calm, calm, key=lambda one: one["p99"])
            held_up = sum(traffic.counts()[k.value] for k in (Kind.DEGRADED, Kind.REFUSED))
            tally.demand_in_time(held_up > 0, "no request noticed that a tier was stopped")
        note = (
            f"p99 before {before['p99']:.0f} ms, afterwards at most "
            f"{after.get('p99', math.nan):.0f} ms; "
            f"the supervisor ended the stops, by new processes, after "
            f"{statistics.median(lasted):.1f} s, at most {max(lasted):.1f} s"
        )
        figures = {"calm_ms": {"before": before, "after": after}, "stopped_s": lasted}
        return tally.report([traffic], site, note, **figures)

    def _stop(self, victims: Sequence[psutil.Process]) -> float:
        """Stop processes until they have died of it, or the time is over; say how long it was."""
        start = time.monotonic()
        for victim in victims:
            victim.suspend()
        try:
            while time.monotonic() < start + self.seconds and any(map(alive, victims)):
                time.sleep(0.05)
            return round(time.monotonic() - start, 2)
        finally:
            for victim in victims:
                if victim.is_running():
                    victim.resume()

    def _calm(self, traffic: Traffic) -> dict[str, float]:
        since = time.monotonic()
        time.sleep(_CALM_S if self.timed else _GLANCE_S)
        until = time.monotonic()
        traffic.wait_ended(until)  # those that take longest are those that tell of a pile-up
        return latency_ms([entry for entry in traffic.since(since) if entry.sent < until])
