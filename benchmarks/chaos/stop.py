"""SIGSTOP: an expert that neither answers nor dies."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import ClassVar

import psutil

from .fault import Report, Tally, Tell, latency_ms, often
from .grounds import every_tier_called
from .judge import Excuse
from .kill import BACK_S, pace, settle
from .site import Site
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
        after: dict[str, float] = {}
        lasted: list[float] = []
        with site.traffic(pace(timed=self.timed)) as traffic:
            tiers = range(len(site.tier_models))
            settle(traffic, tiers)
            before = self._calm(traffic)
            for i in range(self.times):
                tier = i % len(tiers)
                stopped_s, away = self._stop(site, traffic, tier, tally.patience_s(BACK_S))
                lasted.append(stopped_s)
                tally.times += 1
                where = f"stop {i + 1}, tier {tier}"
                if not tally.back(away, BACK_S, where):
                    break
                tell(f"stop {i + 1} of {self.times}: tier {tier}, back after {away:.1f} s")
                after = self._calm(traffic)
                limit = 3 * before["p99"] + 100
                said = f"{where}: p99 afterwards {after['p99']} ms, before {before['p99']} ms"
                tally.demand_in_time(after["p99"] <= limit, said)
        note = (
            f"p99 before {before['p99']:.0f} ms, afterwards {after.get('p99', math.nan):.0f} ms; "
            f"the supervisor ended the stops, by new processes, after "
            f"{statistics.median(lasted):.1f} s, at most {max(lasted):.1f} s"
        )
        figures = {"calm_ms": {"before": before, "after": after}, "stopped_s": lasted}
        return tally.report([traffic], site, note, **figures)

    def _stop(
        self, site: Site, traffic: Traffic, tier: int, within_s: float
    ) -> tuple[float, float | None]:
        """Say how long the stop lasted, and how long full service was away after it."""
        victims = site.stubs(site.tier_models[tier])
        traffic.excuse(Excuse(tiers=frozenset({tier})))
        start = time.monotonic()
        for victim in victims:
            victim.suspend()
        try:
            while time.monotonic() < start + self.seconds and any(map(_alive, victims)):
                time.sleep(0.05)
        finally:
            since = time.monotonic()
            for victim in victims:
                if victim.is_running():
                    victim.resume()
        tiers = range(len(site.tier_models))
        away = traffic.wait_whole(since, tiers=tiers, within_s=within_s, whole=site.whole)
        traffic.wait_ended(time.monotonic())
        traffic.excuse(Excuse())
        return round(since - start, 2), away

    def _calm(self, traffic: Traffic) -> dict[str, float]:
        since = time.monotonic()
        time.sleep(_CALM_S if self.timed else _GLANCE_S)
        return latency_ms(traffic.since(since))


def _alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
