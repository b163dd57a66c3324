"""Very many requests: nothing lost, no growth, the same answers at the end as at the start."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cascade_client.calls import Statistics

from .fault import Report, Tally, Tell
from .grounds import nulls
from .judge import Kind
from .memory import SHARED, Sampler
from .site import Site
from .traffic import Pace, Traffic

__all__ = ["Soak"]

_FLAT_MIB = 16.0
"""Growth over the whole soak, by the fitted slope, that counts as flat: what an allocator's arenas
wander by. A leak of 32 bytes a request in one process is twice that."""

_CANARIES_PER_S = 3.0
"""More rows than this the supervisor does not send to the ensemble."""

_TELL_EVERY_S = 15.0

_ENOUGH_WRONG = 100
"""More wrong answers than this teach nothing new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Soak:
    """Load null experts with a closed loop; upper tiers are reached as those of real experts are.

    Attributes:
        requests: In all.
        callers: Requests under way at once.
    """

    name: ClassVar[str] = "soak"
    ground = staticmethod(nulls)
    requests: int = 1_000_000
    callers: int = 64

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"soak: {self.requests:,} requests"

    @property
    def required(self) -> str:
        """What must hold."""
        return (
            "resident and shared memory flat after warm-up (slope stated), 0 lost, answers "
            "identical at start and end"
        )

    def run(self, site: Site, tell: Tell) -> Report:
        """Ask, count, weigh, compare."""
        pace = Pace(rate=None, callers=self.callers, deadline_ms=None, total=self.requests)
        tally = Tally(times=1)
        before = _exact_answers(site)
        counted = _served(site)
        sampler = Sampler(site, period_s=max(0.1, self.requests / 1e6))
        progress: list[float] = []
        with sampler, site.traffic(pace) as traffic:
            self._watch(traffic, sampler, progress, tell)
        if traffic.sent < self.requests:
            tally.broken.append(f"ended after {traffic.sent:,} requests, {traffic.wrong} wrong")
            return tally.report([traffic], site)
        counted = _served(site) - counted
        slopes = sampler.slopes(progress[: len(sampler.samples)])
        same = _exact_answers(site) == before
        tally.demand(same, "answers at the end differ from those at the start")
        canaries = counted - traffic.sent
        most = _CANARIES_PER_S * (sampler.moments[-1] + 10.0)
        tally.demand(0 <= canaries <= most, f"{traffic.sent} sent, {counted} served")
        right = traffic.counts()[Kind.RIGHT.value]
        tally.demand(right == traffic.sent, f"{traffic.sent} sent, {right} answered rightly")
        for name, slope in slopes.items():
            grown = slope * self.requests / 1e6
            tally.demand(grown <= _FLAT_MIB, f"{name} grows by {grown:.1f} MiB in the soak")
        worst = max(slopes, key=lambda name: slopes[name])
        note = (
            f"MiB per million requests: tritonserver {slopes['tritonserver']:.1f}, shared "
            f"memory {slopes[SHARED]:.1f}, at most {slopes[worst]:.1f} ({worst})"
        )
        return tally.report(
            [traffic],
            site,
            note,
            slope_mib_per_million=slopes,
            resident_mib={k: round(v / 2**20, 1) for k, v in sampler.samples[-1].items()},
            requests_per_s=round(traffic.sent / sampler.moments[-1]),
            rows_identical=len(before),
        )

    def _watch(self, traffic: Traffic, sampler: Sampler, progress: list[float], tell: Tell) -> None:
        """Note how far the load was at each look, until it has ended or gone too wrong."""
        told = time.monotonic()
        while traffic.running and traffic.wrong <= _ENOUGH_WRONG:
            time.sleep(0.05)
            while len(progress) < len(sampler.samples):
                progress.append(len(traffic.entries) / 1e6)
            if time.monotonic() - told >= _TELL_EVERY_S:
                told = time.monotonic()
                tell(f"{len(traffic.entries):,} of {self.requests:,} answered")


def _exact_answers(site: Site) -> list[tuple[int, int, bytes]]:
    """Ask for each row alone, to the last bit."""
    with site.client() as client:
        answers = client.infer(site.rows, rows_per_request=1)
    return [(a.tier, a.label, np.asarray(a.scores).tobytes()) for a in answers]


def _served(site: Site) -> int:
    """Say how many rows the ensemble has answered, as the server counts."""
    with site.client() as client:
        return sum(one.rows for one in client.run(_ask(site.cascade)))


def _ask(model: str) -> Any:
    return (yield Statistics(model))
