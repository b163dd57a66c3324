"""Other experts into a running server, again and again: replaced, added, taken back."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .editions import FIRST, Edition, answers, command, spec_of, swapped
from .fault import Report, Tally, Tell, often
from .kill import BACK_S, settle
from .site import Site
from .traffic import Pace

__all__ = ["Swap"]

_PACE = Pace(rate=120.0, rows=6, deadline_ms=None)
"""Requests of several rows: each must be answered by one edition of the cascade as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """Deploy one edition after another under load, and roll some back.

    Attributes:
        times: Deployments and rollbacks in all.
    """

    name: ClassVar[str] = "hot-swap"
    ground = staticmethod(swapped)
    required: ClassVar[str] = "0 failed requests, no answer from a mixture of old and new"
    times: int = 50

    @property
    def what(self) -> str:
        """The fault in words."""
        return f"swap an expert {often(self.times)} under load: replaced, added, rolled back"

    def run(self, site: Site, tell: Tell) -> Report:
        """Swap, and hold every request against both editions, then against the new one alone."""
        tally = Tally()
        seconds: list[float] = []
        folder = spec_of(site.log.parent)
        now = before = FIRST
        expected = answers(np.stack(site.rows))
        with site.traffic(_PACE, expected[now]) as traffic:
            settle(traffic, range(1))
            for i in range(self.times):
                action, new = _next(i, now, before)
                traffic.ask(expected[now], or_as=expected[new])
                start = time.monotonic()
                failed = command(folder, site.repository, new, action, "--url", site.grpc_url)
                seconds.append(round(time.monotonic() - start, 2))
                tally.times += 1
                if failed is not None:
                    tally.broken.append(f"swap {i + 1}, {action}: {failed}")
                    break
                traffic.ask(expected[new])  # from here on the old edition may not answer
                answers_at = time.monotonic()
                if traffic.wait_whole(answers_at, tiers=range(1), within_s=BACK_S) is None:
                    tally.broken.append(f"swap {i + 1}, {action}: the new edition does not answer")
                    break
                before, now = now, new
                tell(f"swap {i + 1} of {self.times}: {action} in {seconds[-1]} s")
        took = f"{statistics.median(seconds):.1f} s" if seconds else "nothing"
        return tally.report([traffic], site, f"a swap takes {took}, one command", swap_s=seconds)


def _next(i: int, now: Edition, before: Edition) -> tuple[str, Edition]:
    """Say what to do: replace the large one, roll that back, replace the small one, add one."""
    match i % 4:
        case 0:
            return "deploy", now.with_variant("large")
        case 1:
            return "rollback", before
        case 2:
            return "deploy", now.with_variant("small")
        case _:
            return "deploy", now.with_middle()
