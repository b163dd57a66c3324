"""Far more requests than the server can answer."""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cascade_builder.triton_config import parse

from .fault import Report, Tally, Tell, latency_ms
from .grounds import CALLS_PER_TIER, WAITING, pitch
from .judge import Excuse, Kind
from .kill import settle
from .memory import Held, held
from .site import Site
from .traffic import Entry, Pace, Traffic

__all__ = ["Flood"]

_MEASURE_S = 3.0
_RECOVERED_S = 5.0
_CALM_S = 0.5
"""Longest time of an answer once it is calm again."""

_FAST_MS = 250.0
"""Half of the refusals come within this time, though server and flood share the cores."""

_SLACK = 1.5
"""Of what the queues allow: the rates of the tiers are means over flood and aftermath."""

_KEPT = 0.8
"""Share of the throughput before that must be there afterwards; rounds differ by a tenth."""

_GROWN_MIB = 48.0
"""Growth from the first flood to the second that is none: allocators keep what was used at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Send ten times what the server can answer, twice; the second time nothing may grow.

    Attributes:
        seconds: Of both floods together.
        times_capacity: How much is sent.
        timed: Whether what must be quick is held to it.
    """

    name: ClassVar[str] = "flood"
    ground = staticmethod(pitch)
    seconds: float = 30.0
    times_capacity: float = 10.0
    timed: bool = True

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"flood at {self.times_capacity:g} times capacity for {self.seconds:g} s"

    @property
    def required(self) -> str:
        """What must hold."""
        return (
            "p99 of accepted requests bounded by the queue limit, the rest refused fast, "
            f"recovery within {_RECOVERED_S:g} s, no memory growth"
        )

    def run(self, site: Site, tell: Tell) -> Report:
        """Measure, flood, measure, flood, measure."""
        tally = Tally(timed=self.timed)
        tiers = range(len(site.tier_models))
        capacity = _capacity(site)
        tell(f"capacity {capacity:.0f} requests a second")
        pace = Pace(rate=self.times_capacity * capacity, deadline_ms=None)
        weights: list[Held] = []
        for i in (1, 2):
            with site.traffic(pace) as traffic:
                traffic.excuse(Excuse(refusals=True))
                time.sleep(self.seconds / 2)
                traffic.stop()
                away = _recovered(site, tally.patience_s(_RECOVERED_S))
            tally.times += 1
            tally.back(away, _RECOVERED_S, f"flood {i}")
            weights.append(held(site))
            tell(f"flood {i}: {traffic.counts()}, calm after {away} s")
        after = _capacity(site)
        accepted = latency_ms(traffic.entries, Kind.RIGHT)
        refused = latency_ms(traffic.entries, Kind.REFUSED)
        waits = [1e3 * wait for wait in _waits_s(site, _rates(traffic, tiers))]
        limit, below = sum(waits), sum(waits[:-1])
        grown = {k: (weights[1].get(k, 0) - weights[0][k]) / 2**20 for k in weights[0]}
        tally.demand(bool(refused), "nothing was refused: this was no flood")
        tally.demand(
            bool(accepted) and accepted["p99"] <= limit,
            f"p99 of accepted requests {accepted.get('p99')} ms, the queues allow {limit:.0f} ms",
        )
        tally.demand(
            bool(refused) and refused["p50"] <= _FAST_MS and refused["p99"] <= below,
            f"refusals took {refused}, half of them may take {_FAST_MS:.0f} ms, and those by the "
            f"last tier what waits below it, {below:.0f} ms",
        )
        tally.demand_in_time(
            after >= _KEPT * capacity,
            f"{after:.0f} requests a second afterwards, {capacity:.0f} before",
        )
        for name, mib in grown.items():
            tally.demand(mib <= _GROWN_MIB, f"{name} grew by {mib:.0f} MiB from flood to flood")
        longest = max(tally.away_s, default=math.nan)
        note = (
            f"p99 of accepted {accepted.get('p99', 0) / 1e3:.1f} s (queues: {limit / 1e3:.1f} s), "
            f"p50 and p99 of refused {refused.get('p50', 0):.0f} ms and "
            f"{refused.get('p99', 0) / 1e3:.1f} s (queues below the last tier: "
            f"{below / 1e3:.1f} s); calm after {longest:.1f} s; "
            f"{capacity:.0f} requests a second before, {after:.0f} afterwards"
        )
        return tally.report(
            traffic,
            site,
            note,
            capacity_per_s={"before": round(capacity, 1), "afterwards": round(after, 1)},
            accepted_ms=accepted,
            refused_ms=refused,
            refused_by=dict(Counter(_why(e) for e in traffic.entries if e.kind is Kind.REFUSED)),
            queue_limit_ms={"all": round(limit), "below_the_last_tier": round(below)},
            grown_mib={name: round(mib, 1) for name, mib in grown.items()},
        )


def _why(entry: Entry) -> str:
    """Say which queue was full, without what differs from request to request."""
    return re.sub(r"\d+", "N", entry.text)[:100]


def _capacity(site: Site) -> float:
    """Measure right answers per second of a closed loop."""
    with site.traffic(Pace(rate=None, callers=12, deadline_ms=None)) as traffic:
        settle(traffic, range(len(site.tier_models)))
        since = time.monotonic()
        time.sleep(_MEASURE_S)
        until = time.monotonic()
    done = [e for e in traffic.entries if e.kind is Kind.RIGHT and since <= e.ended <= until]
    return len(done) / (until - since)


def _rates(traffic: Traffic, tiers: Sequence[int]) -> list[float]:
    """Say how many requests each tier ran per second of a flood, from what it answered."""
    right = [e for e in traffic.entries if e.kind is Kind.RIGHT]
    start = min(e.sent for e in right)
    rates = []
    for tier in tiers:
        ended = [e.ended for e in right if e.tier >= tier]
        rates.append(len(ended) / (max(ended) - start) if ended else math.inf)
    return rates


def _recovered(site: Site, within_s: float) -> float | None:
    """Say how long after a flood a request was last refused or slow; None: it stays so."""
    since = time.monotonic()
    with site.traffic(Pace(rate=20.0, deadline_ms=None)) as traffic:
        traffic.excuse(Excuse(refusals=True))
        tiers = range(len(site.tier_models))
        return traffic.wait_whole(since, tiers=tiers, within_s=within_s, slow_s=_CALM_S)


def _waits_s(site: Site, rates: Sequence[float]) -> list[float]:
    """Say how long full queues may hold a request of one row: before the router, at each tier.

    What may be ahead of it at a tier waits there or is in calls that are under way.
    """
    config = parse((site.repository / f"{site.cascade}_router" / "config.pbtxt").read_text())
    before = config.dynamic_batching.default_queue_policy.max_queue_size
    assert before > 0, "what waits for the router is not bounded"
    instances = config.instance_group[0].count
    at_a_tier = instances * (WAITING + CALLS_PER_TIER * config.max_batch_size)
    in_router = before + instances * config.max_batch_size
    rows = [in_router, *([at_a_tier] * (len(rates) - 1))]
    return [_SLACK * n / rate for n, rate in zip(rows, rates, strict=True)]
