"""Far more requests than the server can answer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cascade_builder.triton_config import parse

from .fault import Report, Tally, Tell, latency_ms
from .grounds import CALLS_PER_TIER, WAITING, short_queues
from .judge import Excuse, Kind
from .kill import settle
from .memory import Held, held
from .site import Site
from .traffic import Pace, Traffic

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

_WORKED = 0.25
"""Share of its rate before at which each tier must answer in a flood, which takes its share of the
cores: what the queues allow is worked out from these rates, and would bound nothing without."""

_GRACE_MS = 40_000.0
"""Callers wait longer than full queues may hold a request: that bound is held, not theirs."""

_REACHED = 0.8
"""Share of ten times capacity that must have been sent, or this was no such flood."""

_GROWN_MIB = 48.0
"""Growth from one flood to the next that is none: allocators keep what was used at once."""

_MOST_FLOODS = 4
"""A short flood does not meet every size of batch, for each of which a process takes memory once:
so it is repeated until nothing grows any more. What leaks grows each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood:
    """Send ten times what the server can answer, twice; the second time nothing may grow.

    Attributes:
        seconds: Of each flood.
        times_capacity: How much is sent.
        timed: Whether what must be quick is held to it.
    """

    name: ClassVar[str] = "flood"
    ground = staticmethod(short_queues)
    seconds: float = 30.0
    times_capacity: float = 10.0
    timed: bool = True

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"flood at {self.times_capacity:g} times capacity for {self.seconds:g} s, twice"

    @property
    def required(self) -> str:
        """What must hold."""
        return (
            "p99 of accepted requests bounded by the queue limit, the rest refused fast because a "
            f"queue is full, recovery within {_RECOVERED_S:g} s, no memory growth"
        )

    def run(self, site: Site, tell: Tell) -> Report:
        """Measure, flood, measure, flood, measure."""
        tally = Tally(timed=self.timed)
        capacity, calm = _capacity(site)
        tell(f"capacity {capacity:.0f} requests a second")
        floods: list[Traffic] = []
        aside = [calm]
        weights: list[Held] = []
        most = 2 if self.timed else _MOST_FLOODS
        while len(floods) < most:
            if len(floods) >= 2 and max(_grown(weights).values()) <= _GROWN_MIB:
                break
            where = f"flood {len(floods) + 1}"
            flood, calm = self._flood(site, capacity, tally, where)
            floods.append(flood)
            aside.append(calm)
            weights.append(held(site))
            tell(f"{where}: {flood.counts()}, calm after {tally.away_s[-1:]} s")
        after, calm = _capacity(site)
        aside.append(calm)
        return self._report(site, tally, floods, aside, weights, (capacity, after))

    def _flood(
        self, site: Site, capacity: float, tally: Tally, where: str
    ) -> tuple[Traffic, Traffic]:
        """Send, then see how soon it is calm, while what is under way still ends.

        Returns:
            The flood, and the load that told.
        """
        rate = self.times_capacity * capacity
        pace = Pace(rate=rate, deadline_ms=None, grace_ms=_GRACE_MS)
        with site.traffic(pace) as traffic:
            traffic.excuse(Excuse(full=True))
            time.sleep(self.seconds)
            traffic.stop()
            away, calm = _recovered(site, tally.patience_s(_RECOVERED_S))
        tally.times += 1
        tally.back(away, _RECOVERED_S, where)
        enough = _REACHED * rate * self.seconds
        said = f"{where}: {traffic.sent} sent, of {rate * self.seconds:.0f} that make the flood"
        tally.demand_in_time(traffic.sent >= enough, said)
        return traffic, calm

    def _report(
        self,
        site: Site,
        tally: Tally,
        floods: Sequence[Traffic],
        aside: Sequence[Traffic],
        weights: Sequence[Held],
        capacity: tuple[float, float],
    ) -> Report:
        before, after = capacity
        entries = [entry for flood in floods for entry in flood.entries]
        accepted, refused = latency_ms(entries, Kind.RIGHT), latency_ms(entries, Kind.REFUSED)
        rates, calm = (_rates(some, len(site.tier_models)) for some in (floods, aside[:1]))
        waits = [1e3 * wait for wait in _waits_s(site, rates)]
        limit, below = sum(waits), sum(waits[:-1])
        grown = _grown(weights)
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
            after >= _KEPT * before,
            f"{after:.0f} requests a second afterwards, {before:.0f} before",
        )
        for tier, (rate, usual) in enumerate(zip(rates, calm, strict=True)):
            said = f"tier {tier} answered {rate:.1f} requests a second, {usual:.1f} before"
            tally.demand_in_time(rate >= _WORKED * usual, said)
        for name, mib in grown.items():
            tally.demand(mib <= _GROWN_MIB, f"{name} grew by {mib:.0f} MiB from flood to flood")
        longest = max(tally.away_s, default=math.nan)
        note = (
            f"p99 of accepted {accepted.get('p99', 0) / 1e3:.1f} s (queues: {limit / 1e3:.1f} s), "
            f"p50 and p99 of refused {refused.get('p50', 0):.0f} ms and "
            f"{refused.get('p99', 0) / 1e3:.1f} s (queues below the last tier: "
            f"{below / 1e3:.1f} s); calm after {longest:.1f} s; "
            f"{before:.0f} requests a second before, {after:.0f} afterwards"
        )
        return tally.report(
            floods,
            site,
            note,
            aside=aside,
            capacity_per_s={"before": round(before, 1), "afterwards": round(after, 1)},
            tiers_per_s={"before": _rounded(calm), "in the floods": _rounded(rates)},
            accepted_ms=accepted,
            refused_ms=refused,
            queue_limit_ms={"all": round(limit), "below_the_last_tier": round(below)},
            grown_mib={name: round(mib, 1) for name, mib in grown.items()},
        )


def _grown(weights: Sequence[Held]) -> dict[str, float]:
    """Say how many MiB each process grew by in the last flood."""
    before, after = weights[-2:]
    return {name: (after.get(name, 0) - n_bytes) / 2**20 for name, n_bytes in before.items()}


def _capacity(site: Site) -> tuple[float, Traffic]:
    """Measure right answers per second of a closed loop, which is given, too."""
    with site.traffic(Pace(rate=None, callers=12, deadline_ms=None)) as traffic:
        settle(traffic, range(len(site.tier_models)))
        since = time.monotonic()
        time.sleep(_MEASURE_S)
        until = time.monotonic()
    done = [e for e in traffic.entries if e.kind is Kind.RIGHT and since <= e.ended <= until]
    return len(done) / (until - since), traffic


def _rates(loads: Sequence[Traffic], n_tiers: int) -> list[float]:
    """Say how many requests each tier ran per second of some loads, from what was answered."""
    rates = []
    for tier in range(n_tiers):
        n, took_s = 0, 0.0
        for load in loads:
            right = [e for e in load.entries if e.kind is Kind.RIGHT]
            ended = [e.ended for e in right if e.tier >= tier]
            n += len(ended)
            took_s += max(ended) - min(e.sent for e in right) if ended else 0.0
        rates.append(n / took_s if took_s else 0.0)
    return rates


def _rounded(rates: Sequence[float]) -> list[float]:
    return [round(rate, 1) for rate in rates]


def _recovered(site: Site, within_s: float) -> tuple[float | None, Traffic]:
    """Say how long after a flood a request was last refused or slow; None: it stays so.

    Returns:
        Seconds, and the load that told.
    """
    since = time.monotonic()
    with site.traffic(Pace(rate=20.0, deadline_ms=None)) as traffic:
        traffic.excuse(Excuse(full=True))
        tiers = range(len(site.tier_models))
        away = traffic.wait_whole(since, tiers=tiers, within_s=within_s, slow_s=_CALM_S)
    return away, traffic


def _waits_s(site: Site, rates: Sequence[float]) -> list[float]:
    """Say how long full queues may hold a request of one row: before the router, at each tier.

    What may be ahead of it at a tier waits there or is in calls that are under way.
    """
    config = parse((site.repository / f"{site.cascade}_router" / "config.pbtxt").read_text())
    instances = config.instance_group[0].count
    at_a_tier = instances * (WAITING + CALLS_PER_TIER * config.max_batch_size)
    in_router = WAITING + instances * config.max_batch_size
    rows = [in_router, *([at_a_tier] * (len(rates) - 1))]
    return [_SLACK * n / rate if rate else 0.0 for n, rate in zip(rows, rates, strict=True)]
