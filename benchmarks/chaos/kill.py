"""SIGKILL: the process of an expert, of the router, of the server itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import psutil

from .fault import Report, Tally, Tell, often
from .grounds import pitch
from .judge import Excuse, Kind
from .site import Site
from .traffic import Pace, Traffic

__all__ = ["BACK_S", "Kill", "an_expert", "excused", "pace", "settle", "the_router", "the_server"]

BACK_S = 15.0
"""Full service must be back within this time."""

_GONE_S = 45.0
"""What the dead were loaded with must be gone by then: it has 30 s for what it had taken."""

_TAKEN_S = 1.0
"""Requests sent this long after a kill find nobody who could take them and not answer."""

_FELL = "boost::interprocess::lock_exception"
"""What Triton 2.51 says where a model's process dies in the moment in which it holds a lock of
their shared memory: the server itself dies of that."""

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
        must: Ways in which some requests must have ended, or the kills have hit nothing.
    """

    name: str
    whom: str
    pick: Pick
    times: int
    seed: int = 1
    timed: bool = True
    ground: Callable[[Path], AbstractContextManager[Site]] = pitch
    must: Sequence[Kind] = ()
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
        for kind in self.must:
            tally.demand(traffic.counts()[kind.value] > 0, f"no request ended as: {kind.value}")
        return tally.report([traffic], site)


def pace(*, timed: bool) -> Pace:
    """Say how much is sent while processes die, on a machine of its own or a busy one."""
    return _PACE if timed else _SLOW


def an_expert(
    site: Site, i: int, _: Rng, *, in_router: frozenset[int] = frozenset()
) -> tuple[Sequence[psutil.Process], Excuse]:
    """Choose the tiers in turn; those that the router runs itself have no need of their model."""
    tier = i % len(site.tier_models)
    return site.stubs(site.tier_models[tier]), Excuse(tiers=frozenset({tier}) - in_router)


def the_router(site: Site, _: int, __: Rng) -> tuple[Sequence[psutil.Process], Excuse]:
    """Choose the router; the tiers live on."""
    return site.stubs(f"{site.cascade}_router"), Excuse(silence=True)


def the_server(site: Site, _: int, __: Rng) -> tuple[Sequence[psutil.Process], Excuse]:
    """Choose the server, which every connection leads to; it listens once all models are loaded."""
    server = site.server()
    return ([] if server is None else [server]), Excuse(connection=True)


def settle(traffic: Traffic, tiers: Sequence[int]) -> None:
    """Let every tier answer before anything is done to it."""
    since = time.monotonic()
    if traffic.wait_whole(since, tiers=tiers, within_s=BACK_S) is None:
        message = "the cascade did not serve to begin with"
        raise RuntimeError(message)


@contextmanager
def excused(
    site: Site, traffic: Traffic, excuse: Excuse, tally: Tally, where: str
) -> Iterator[None]:
    """Let requests suffer what a fault may do, until all that it met have ended.

    Connections may break where the server is killed, or where it says that it died of the fault.
    """
    broken = traffic.counts()[Kind.BROKEN.value]
    site.seen(_FELL)
    traffic.excuse(replace(excuse, connection=True))
    yield
    traffic.wait_ended(time.monotonic())  # what a process died with ends by its own time alone
    traffic.excuse(Excuse())
    broken = traffic.counts()[Kind.BROKEN.value] - broken
    fell = site.seen(_FELL) > 0
    tally.fell += fell
    said = f"{where}: {broken} connections broke, though nobody had killed the server"
    tally.demand(excuse.connection or fell or not broken, said)


def _strike(
    site: Site, traffic: Traffic, victim: psutil.Process, excuse: Excuse, tally: Tally, where: str
) -> bool:
    """Kill a process and wait until all is well again."""
    tiers = range(len(site.tier_models))
    with excused(site, traffic, excuse, tally, where):
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
    silent = [e for e in traffic.since(since + _TAKEN_S) if e.kind is Kind.SILENT]
    tally.demand(not silent, f"{where}: {len(silent)} requests sent afterwards got no answer")
    return tally.back(away, BACK_S, where)


def _wait_gone(site: Site) -> list[psutil.Process]:
    """Wait for the end of processes whose models were loaded anew; returns those that stay."""
    end = time.monotonic() + _GONE_S
    while (lingering := site.lingering()) and time.monotonic() < end:
        time.sleep(0.5)
    return lingering
