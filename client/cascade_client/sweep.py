"""A served cascade over levels of load, by perf_analyzer, with what each tier did meanwhile.

perf_analyzer loads the ensemble; an operating point is a request parameter. The tiers behind the
router it knows as ``--bls-composing-models``, but its CSV (2.51) counts their calls where rows are
meant and leaves out how often they ran. So what a tier did is the difference of the server's own
counters around a level; other traffic on the server counts there, too.

Candidates take turns at each level, so that a machine that slows down does so for all of them.
"""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cascade_router.errors import ServerError
from cascade_router.policy import Policy

from .bench import Candidate
from .calls import Counts, Statistics, ask
from .client import CascadeClient
from .levels import Level
from .measured import Found, Measured, Target, in_order
from .perf_analyzer import Figures, PerfAnalyzer
from .rate_search import highest_rate, most_steps
from .sweep_store import Store
from .tier_figures import tier_figures

__all__ = ["Plan", "Sweep", "Swept"]

_SETTLE_S = 120.0
_CAPACITY_AT = 32
_ENOUGH_REQUESTS = 100
_LONGEST = 5
_BEHIND = 0.05
_AT_THE_EDGES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        levels: For every candidate.
        seconds: Length of one measurement.
        batch: Rows per request.
        seed: Of the moments of open loops.
        target: Search the highest rate that keeps this; None: no search.
        tolerance: How near the search comes, as a share of the rate.
        minutes: No level begins later than this.
    """

    levels: tuple[Level, ...]
    seconds: float = 5.0
    batch: int = 1
    seed: int = 0
    target: Target | None = None
    tolerance: float = 0.05
    minutes: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What came of it.

    Attributes:
        levels: Everything that was asked for, kept or measured now, in the order of candidates.
        found: An answer per candidate where a target was given.
        left: What the time did not suffice for; empty: all is done.
    """

    levels: tuple[Measured, ...]
    found: tuple[Found, ...]
    left: str = ""


class _OutOfTimeError(Exception):
    """The minutes are over; no error of anybody's."""


class Sweep:
    """One sweep under way.

    Args:
        client: Asks the server for its counters.
        perf: Loads it.
        grpc_url: ``host:port`` for perf_analyzer.
        data: File of input rows as perf_analyzer reads them.
        candidates: Operating points of one cascade, or single tiers of it.
        policy: Names the tiers.
        store: Keeps what was measured.
        plan: What to measure.
        clock: Seconds, monotonic.
        progress: Told steps done, steps in all and what is being done.
    """

    def __init__(
        self,
        *,
        client: CascadeClient,
        perf: PerfAnalyzer,
        grpc_url: str,
        data: Path,
        candidates: Sequence[Candidate],
        policy: Policy,
        store: Store,
        plan: Plan,
        clock: Callable[[], float] = time.monotonic,
        progress: Callable[[int, int, str], None] = lambda *_: None,
    ) -> None:
        self._client = client
        self._perf = perf
        self._grpc_url = grpc_url
        self._data = data
        self._candidates = candidates
        self._policy = policy
        self._store = store
        self._plan = plan
        self._clock = clock
        self._end = clock() + 60 * plan.minutes
        self._progress = progress
        self._steps = 0
        self._all_steps = len(candidates) * (len(plan.levels) + _search_steps(plan))
        self._seen: dict[tuple[str, Level], Measured] = {}

    def run(self) -> Swept:
        """Measure every level of every candidate, then search.

        Raises:
            ServerError: If the server goes away, or no level could be measured at all.
        """
        found: list[Found] = []
        left = ""
        try:
            for level in self._plan.levels:
                for candidate in self._candidates:
                    self._measured(candidate, level)
            if self._plan.target is not None:
                for candidate in self._candidates:
                    answer = self._search(candidate, self._plan.target)
                    found.append(answer)
        except _OutOfTimeError:
            left = self._left(len(found))
        levels = tuple(self._seen.values())
        if levels and all(one.state == "failed" for one in levels):
            message = f"sweep: none of {len(levels)} levels could be measured"
            raise ServerError(message, hint=levels[0].note)
        order = [candidate.name for candidate in self._candidates]
        return Swept(levels=tuple(in_order(levels, order)), found=tuple(found), left=left)

    def _left(self, n_found: int) -> str:
        planned = {(c.name, level) for c in self._candidates for level in self._plan.levels}
        n_levels = len(planned - set(self._seen))
        n_searches = len(self._candidates) - n_found if self._plan.target is not None else 0
        parts = [(n_levels, "level", "levels"), (n_searches, "search", "searches")]
        return " and ".join(f"{n} {one if n == 1 else many}" for n, one, many in parts if n)

    def _search(self, candidate: Candidate, target: Target) -> Found:
        """Find the highest rate of one candidate that keeps the target."""
        plan = self._plan
        capacity = self._capacity(candidate)
        if capacity is None:
            return Found(candidate=candidate.name, target=target, level=None, best=None)
        # Queues that fill make larger batches: an open loop can get more than a closed one.
        high = float(f"{2 * capacity:.3g}")
        low = float(f"{high / 64:.3g}")
        tried: list[Measured] = []

        def at_rate(rate: float, times: float = 1.0) -> bool:
            longest = _LONGEST * plan.seconds
            seconds = min(max(plan.seconds, _ENOUGH_REQUESTS / rate), longest) * times
            level = Level(load="rate", value=rate, seconds=round(seconds, 1))
            tried.append(self._measured(candidate, level))
            return target.met(tried[-1])

        rate = highest_rate(at_rate, lambda r: at_rate(r, 2), low, high, plan.tolerance)
        usable = [one for one in tried if not math.isnan(target.latency(one))]
        return Found(
            candidate=candidate.name,
            target=target,
            level=tried[-1] if rate is not None else None,
            best=min(usable, key=target.latency, default=None),
            capped=rate == high,
        )

    def _capacity(self, candidate: Candidate) -> float | None:
        """Give the most requests per second that closed loops got; None: none could be measured."""
        most = max((x.value for x in self._plan.levels if x.load == "concurrency"), default=0)
        if most < _CAPACITY_AT:
            at = Level(load="concurrency", value=_CAPACITY_AT, seconds=self._plan.seconds)
            self._measured(candidate, at)
        rows_per_s = [
            one.rows_per_s
            for (name, level), one in self._seen.items()
            if name == candidate.name and level.load == "concurrency" and one.state == "ok"
        ]
        return max(rows_per_s) / self._plan.batch if rows_per_s else None

    def _measured(self, candidate: Candidate, level: Level) -> Measured:
        """Give what is kept of a level, else measure it.

        Raises:
            _OutOfTimeError: If the minutes are over.
        """
        self._progress(self._steps, max(self._all_steps, self._steps), f"{candidate.name}: {level}")
        self._steps += 1
        one = self._store.get(candidate.name, level)
        if one is None:
            if self._clock() >= self._end:
                raise _OutOfTimeError
            one = self._measure(candidate, level)
            self._store.add(one)
        self._seen[candidate.name, level] = one
        return one

    def _measure(self, candidate: Candidate, level: Level) -> Measured:
        # Whatever the last level left in the queues is worked off first.
        self._client.wait_ready(_SETTLE_S)
        before = self._counts()
        figures, note = self._load(candidate, level)
        after = self._counts()
        return Measured(
            candidate=candidate.name,
            level=level,
            state="failed" if figures is None else self._state(figures, level),
            note=note,
            when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            tiers=tier_figures(self._policy, candidate.parameters, before, after),
            **({} if figures is None else _own(figures)),
        )

    def _load(self, candidate: Candidate, level: Level) -> tuple[Figures | None, str]:
        """Let perf_analyzer load the server; a level that cannot be measured is a finding."""
        closed = level.load == "concurrency"
        try:
            figures = self._perf.measure(
                candidate.model,
                self._grpc_url,
                self._data,
                concurrency=round(level.value) if closed else None,
                rate=None if closed else level.value,
                seed=self._plan.seed,
                batch=self._plan.batch,
                parameters=candidate.parameters,
                window_ms=self._perf.window_ms(level.seconds),
                steady_percent=None,
            )
        except ServerError as exc:
            return None, " ".join(exc.message.split())
        return figures, ""

    def _state(self, figures: Figures, level: Level) -> str:
        if level.load == "concurrency":
            return "ok"
        # Not counted is what is under way at the end, about a latency's worth of requests, and a
        # few that are due just outside. (How many are due in all is no chance, see `perf_data`.)
        edges = _AT_THE_EDGES / (level.value * level.seconds)
        share = 1 - _BEHIND - edges - figures.p50_ms / 1000 / level.seconds
        offered = level.value * self._plan.batch
        return "ok" if figures.rows_per_s >= share * offered else "behind"

    def _counts(self) -> dict[str, Counts]:
        """Look at what every model of the cascade has done, all its versions together."""
        cascade, tiers = self._policy.cascade, self._policy.tiers
        models = [cascade, f"{cascade}_router", *(tier.model for tier in tiers)]
        return {model: _together(self._client.run(ask(Statistics(model)))) for model in models}


def _together(versions: Sequence[Counts]) -> Counts:
    return Counts(
        version="all",
        rows=sum(one.rows for one in versions),
        batches=sum(one.batches for one in versions),
        calls=sum(one.calls for one in versions),
        queue_ms=sum(one.queue_ms for one in versions),
        compute_ms=sum(one.compute_ms for one in versions),
    )


def _search_steps(plan: Plan) -> int:
    return 0 if plan.target is None else 1 + most_steps(1, 64, plan.tolerance)


def _own(figures: Figures) -> dict[str, float]:
    """Take what `Measured` holds, too, under the same names."""
    values = asdict(figures)
    return {key: values[key] for key in values if key != "columns"}
