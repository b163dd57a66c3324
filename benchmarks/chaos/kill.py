"""SIGKILL: the process of an expert, of the router, of the server itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil

from .fault import Report, Tally, Tell, often
from .grounds import pitch
from .judge import Excuse, Kind
from .site import Site
from .traffic import Pace, Traffic

__all__ = ["BACK_S", "Kill", "an_expert", "pace", "settle", "the_router", "the_server"]

BACK_S = 15.0
"""Full service must be back within this time."""

_GONE_S = 45.0
"""What the dead were loaded with must be gone by then: it has 30 s for what it had taken."""

_PACE = Pace(rate=25.0, deadline_ms=3000.0)
_SLOW = Pace(rate=12.0, deadline_ms=10_000.0)
"""For a machine that has other things to do: there, haste would be refused without a fault."""

Rng = np.random.Generator

Pick = Callable[[Site, int, Rng], tuple[Sequence[psutil.Process], Excuse]]
"""(site, number of the kill, rng) -> processes of which one dies, and what that may do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """Kill a process, wait for full service, kill the next.

    Attributes:
        name: What ``--only`` takes.
        whom: The victim in words.
        pick: Chooses it.
        times: Kills in all.
        seed: Of which instance dies.
        timed: Whether what must be quick is held to it.
        ground: Where it is done.
        degrades: Whether some answers must be degraded ones, or nothing was learned of them.
    """

    name: str
    whom: str
    pick: Pick
    times: int
    seed: int = 1
    timed: bool = True
    ground: Callable[[Path], AbstractContextManager[Site]] = pitch
    degrades: bool = False
    required: ClassVar[str] = (
        "every request answered rightly, answered degraded as the policy says, or refused with a "
        f"clear error; none past its deadline; full service back within {BACK_S:.0f} s"
    )

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"SIGKILL {self.whom}, {often(self.times)}"

    def run(self, site: Site, tell: Tell) -> Report:
        """Kill; in the end no process of before may be left, nor shared memory of the dead."""
        rng = np.random.default_rng(self.seed)
        tally = Tally(timed=self.timed)
        dead: set[Path] = set()
        with site.traffic(pace(timed=self.timed)) as traffic:
            settle(traffic, range(len(site.tier_models)))
            for i in range(self.times):
                victims, excuse = self.pick(site, i, rng)
                if not victims:
                    tally.broken.append(f"kill {i + 1}: there is no process to kill")
                    break
                victim = victims[int(rng.integers(len(victims)))]
                dead.update(site.regions_of(victim))
                if not _strike(site, traffic, victim, excuse, tally, f"kill {i + 1}"):
                    break
                tell(f"kill {i + 1} of {self.times}: back after {tally.away_s[-1]} s")
            lingering = _wait_gone(site)
            tally.demand(not lingering, f"{len(lingering)} former processes of models stay")
            left = [path for path in dead if path.exists()]
            tally.demand(not left, f"{len(left)} shared memory regions of dead processes stay")
        degraded = traffic.counts()[Kind.DEGRADED.value]
        tally.demand(degraded > 0 or not self.degrades, "no answer was a degraded one")
        return tally.report([traffic], site)


def pace(*, timed: bool) -> Pace:
    """Say how much is sent while processes die, on a machine of its own or a busy one."""
    return _PACE if timed else _SLOW


def an_expert(site: Site, i: int, _: Rng) -> tuple[Sequence[psutil.Process], Excuse]:
    """Choose the tiers in turn."""
    tier = i % len(site.tier_models)
    return site.stubs(site.tier_models[tier]), Excuse(tiers=frozenset({tier}))


def the_router(site: Site, _: int, __: Rng) -> tuple[Sequence[psutil.Process], Excuse]:
    """Choose the router, which answers for every tier."""
    tiers = frozenset(range(len(site.tier_models)))
    return site.stubs(f"{site.cascade}_router"), Excuse(tiers=tiers, silence=True)


def the_server(site: Site, _: int, __: Rng) -> tuple[Sequence[psutil.Process], Excuse]:
    """Choose the server, which every connection leads to."""
    server = site.server()
    tiers = frozenset(range(len(site.tier_models)))
    excuse = Excuse(tiers=tiers, silence=True, connection=True)
    return ([] if server is None else [server]), excuse


def settle(traffic: Traffic, tiers: Sequence[int]) -> None:
    """Let every tier answer before anything is done to it."""
    since = time.monotonic()
    if traffic.wait_whole(since, tiers=tiers, within_s=BACK_S) is None:
        message = "the cascade did not serve to begin with"
        raise RuntimeError(message)


def _strike(
    site: Site, traffic: Traffic, victim: psutil.Process, excuse: Excuse, tally: Tally, where: str
) -> bool:
    """Kill a process and wait until all is well again."""
    tiers = range(len(site.tier_models))
    traffic.excuse(excuse)
    former = site.alike(victim)
    since = time.monotonic()
    victim.kill()
    tally.times += 1
    away = traffic.wait_whole(
        since,
        tiers=tiers,
        within_s=tally.patience_s(BACK_S),
        whole=lambda: site.whole(without=former),
    )
    traffic.wait_ended(time.monotonic())  # what it died with ends by its own time alone
    traffic.excuse(Excuse())
    return tally.back(away, BACK_S, where)


def _wait_gone(site: Site) -> list[psutil.Process]:
    """Wait for the end of processes whose models were loaded anew; returns those that stay."""
    end = time.monotonic() + _GONE_S
    while (lingering := site.lingering()) and time.monotonic() < end:
        time.sleep(0.5)
    return lingering
