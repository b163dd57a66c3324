"""SIGSTOP: an expert that neither answers nor dies."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

from .fault import Report, Tally, Tell, latency_ms, often
from .grounds import pitch
from .judge import Excuse
from .kill import BACK_S, pace, settle
from .site import Site
from .traffic import Traffic

__all__ = ["StopTier"]

_CALM_S = 4.0
"""Of traffic whose latency is compared, before and afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTier:
    """Stop all processes of an expert for a while, the tiers above the first in turn.

    The first tier runs in the router's process, so its own processes are stopped for nothing; the
    router's are killed elsewhere.

    Attributes:
        times: Stops in all.
        seconds: Of each.
        timed: Whether what must be quick is held to it.
    """

    name: ClassVar[str] = "stop-tier"
    ground = staticmethod(pitch)
    times: int = 4
    seconds: float = 5.0
    timed: bool = True

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"SIGSTOP of a tier for {self.seconds:g} s, {often(self.times)}"

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
        with site.traffic(pace(timed=self.timed)) as traffic:
            tiers = range(len(site.tier_models))
            settle(traffic, tiers)
            before = _calm(traffic)
            for i in range(self.times):
                tier = 1 + i % (len(tiers) - 1)
                away = self._stop(site, traffic, tier, tally.patience_s(BACK_S))
                tally.times += 1
                where = f"stop {i + 1}, tier {tier}"
                if not tally.back(away, BACK_S, where):
                    break
                tell(f"stop {i + 1} of {self.times}: tier {tier}, back after {away:.1f} s")
                after = _calm(traffic)
                limit = 3 * before["p99"] + 100
                said = f"{where}: p99 afterwards {after['p99']} ms, before {before['p99']} ms"
                tally.demand_in_time(after["p99"] <= limit, said)
        note = f"p99 before {before['p99']:.0f} ms, afterwards {after.get('p99', math.nan):.0f} ms"
        return tally.report(traffic, site, note, calm_ms={"before": before, "after": after})

    def _stop(self, site: Site, traffic: Traffic, tier: int, within_s: float) -> float | None:
        victims = site.stubs(site.tier_models[tier])
        # A supervisor that takes the tier for dead may do without the router for a moment.
        traffic.excuse(Excuse(tiers=frozenset({tier}), refusals=True))
        for victim in victims:
            victim.suspend()
        try:
            time.sleep(self.seconds)
        finally:
            since = time.monotonic()
            for victim in victims:
                if victim.is_running():
                    victim.resume()
        tiers = range(len(site.tier_models))
        away = traffic.wait_whole(since, tiers=tiers, within_s=within_s, whole=site.whole)
        traffic.wait_ended(time.monotonic())
        traffic.excuse(Excuse())
        return away


def _calm(traffic: Traffic) -> dict[str, float]:
    since = time.monotonic()
    time.sleep(_CALM_S)
    return latency_ms(traffic.since(since))
