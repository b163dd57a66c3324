"""What the router tells Prometheus."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .gate import DECIDED, Ints
from .policy import Policy, Tier
from .scores import Floats
from .walk import ABSTAINED, CUT_SHORT, TIER_FAILED, Walk

__all__ = ["FAMILIES", "OPEN", "Meters", "score_edges"]

FAMILIES = {
    "cascade_exits_total": "Rows answered, by operating point and by the tier that answered",
    "cascade_escalations_total": "Rows that a tier ran and sent up, by operating point and tier",
    "cascade_abstentions_total": "Rows answered by no label, by operating point",
    "cascade_score_bucket": "Scores up to le at each tier, cumulative like any histogram",
    "cascade_degraded_total": "Rows not answered as the policy says, by reason",
    "cascade_tier_failures_total": "Calls of a tier that failed or took too long, by reason",
    "cascade_cost_ms_total": "Measured cost of the tiers that rows ran, by operating point",
    "cascade_cost_largest_ms_total": "What the largest expert alone would have cost for these rows",
}
"""The counters there are, with what they say."""

OPEN = "cascade_tier_open"
"""The one gauge. Each router instance adds one while it leaves a tier alone."""

_REASONS = {TIER_FAILED: "tier", CUT_SHORT: "deadline"}

_log = logging.getLogger(__name__)

Key = tuple[str, tuple[tuple[str, str], ...]]
"""Family, and labels with their values."""

Sums = defaultdict[Key, float]


class _Ran(NamedTuple):
    policy: Policy
    tier: int
    points: Ints
    up: Any
    scores: Floats


class _Answered(NamedTuple):
    policy: Policy
    points: Ints
    tiers: Ints
    labels: Ints
    degraded: Ints


class _Told(NamedTuple):
    """An amount of a counter that needs no adding up by policy."""

    key: Key
    amount: float


class Meters:
    """Counts rows, scores and cost, and hands the sums over every ``period_s`` seconds.

    An increment is a round trip to the server, and two at once on one metric crash it (2.51:
    ``increment`` gives up the GIL while it rewrites the metric's shared memory). So what happens is
    noted as it is, and one thread adds it up, all rows of a period in one go, and hands it over. A
    server with metrics switched off counts nothing.

    Args:
        cascade: Its name.
        tiers: The names of its tiers.
        period_s: Seconds between two times of handing over.
    """

    def __init__(self, cascade: str, tiers: Sequence[str], period_s: float = 1.0) -> None:
        import triton_python_backend_utils as pb_utils

        self._cascade = cascade
        self._tiers = tiers
        self._period_s = period_s
        self._noted: deque[_Ran | _Answered | _Told] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        # Families and metrics are kept for life: one that is collected crashes later increments.
        self._metrics: dict[Key, Any] = {}
        self._families: dict[str, Any] = {}
        try:
            for name, text in FAMILIES.items():
                kind = pb_utils.MetricFamily.COUNTER
                family = pb_utils.MetricFamily(name=name, description=text, kind=kind)
                self._families[name] = family
            text = "Router instances that leave a tier alone because it failed"
            kind = pb_utils.MetricFamily.GAUGE
            self._families[OPEN] = pb_utils.MetricFamily(name=OPEN, description=text, kind=kind)
        except pb_utils.TritonModelException:
            self._families = {}
            return
        for tier in range(len(tiers)):
            self._note(OPEN, tier, 0.0)  # seen to be nought from the start
        self._thread.start()

    def ran(self, walk: Walk, tier: int, rows: Ints, scores: Floats) -> None:
        """Note rows of a walk that a tier ran and settled; (n,) scores, as they decided."""
        if self._families:
            up = walk.tier[rows] != DECIDED
            self._noted.append(_Ran(walk.policy, tier, walk.point[rows], up, scores))

    def answered(self, walk: Walk, rows: Ints) -> None:
        """Note rows of a walk that are answered."""
        if self._families:
            arrays = (walk.point[rows], walk.exit_tier[rows], walk.label[rows], walk.degraded[rows])
            self._noted.append(_Answered(walk.policy, *arrays))

    def tier_failed(self, tier: int, reason: str) -> None:
        """Note a call of a tier that failed: ``error`` or ``timeout``."""
        self._note("cascade_tier_failures_total", tier, 1.0, reason=reason)

    def tier_open(self, tier: int, is_open: bool) -> None:
        """Note that a tier is left alone from now on, or is no longer."""
        self._note(OPEN, tier, 1.0 if is_open else -1.0)

    def _note(self, family: str, tier: int, amount: float, **labels: str) -> None:
        if self._families:
            self._noted.append(_Told(_key(family, tier=self._tiers[tier], **labels), amount))

    def close(self) -> None:
        """Hand over what is counted and end the thread; a server that is gone is not waited for."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _work(self) -> None:
        closed = False
        owed: Sums = defaultdict(float)
        while not closed:
            closed = self._closed.wait(self._period_s)
            try:
                _add(owed, [self._noted.popleft() for _ in range(len(self._noted))])
                self._hand_over(owed)
            except Exception:  # noqa: BLE001  # a thread that dies would let notes pile up
                _log.exception("fault in the metrics")

    def _hand_over(self, owed: Sums) -> None:
        """Give the sums to the server; what it does not take now stays for the next time."""
        import triton_python_backend_utils as pb_utils

        for key in list(owed):
            try:
                self._metric(*key).increment(owed[key])
            except pb_utils.TritonModelException as exc:  # such as no room in the shared memory
                _log.error("counts could not be handed over, they are kept: %s", exc)
                return
            del owed[key]

    def _metric(self, family: str, labels: tuple[tuple[str, str], ...]) -> Any:
        key = (family, labels)
        if key not in self._metrics:
            values = {"cascade": self._cascade, **dict(labels)}
            self._metrics[key] = self._families[family].Metric(labels=values)
        return self._metrics[key]


def score_edges(kind: str) -> list[float]:
    """Say the upper bounds of the buckets for a kind of score, without the last, infinity."""
    if kind in ("max_prob", "margin", "neg_entropy"):
        return [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    return [-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0]


@dataclass(slots=True)
class _Pile:
    """Notes of one kind, policy and tier, to be added up in one go."""

    notes: list[Any]

    def joined(self, name: str) -> Any:
        return np.concatenate([getattr(note, name) for note in self.notes])


def _add(sums: Sums, noted: Iterable[_Ran | _Answered | _Told]) -> None:
    """Add notes up, policy by policy and tier by tier."""
    piles: dict[Any, _Pile] = {}
    for note in noted:
        if isinstance(note, _Told):
            sums[note.key] += note.amount
            continue
        key = (type(note), id(note.policy), getattr(note, "tier", None))
        piles.setdefault(key, _Pile([])).notes.append(note)
    for pile in piles.values():
        first = pile.notes[0]
        if isinstance(first, _Ran):
            _add_ran(sums, first.policy, first.tier, pile)
        else:
            _add_answered(sums, first.policy, pile)


def _add_ran(sums: Sums, policy: Policy, tier: int, pile: _Pile) -> None:
    expert, points, scores = policy.tiers[tier], pile.joined("points"), pile.joined("scores")
    for point, n in _by_point(policy, points[pile.joined("up")]):
        sums[_key("cascade_escalations_total", point=point, tier=expert.name)] += n
    _add_cost(sums, "cascade_cost_ms_total", expert, policy, pile)
    edges = score_edges(expert.score.kind)
    # NaN sorts behind every number: such a score counts in the last bucket alone.
    below = np.searchsorted(np.sort(scores), edges, side="right").tolist()
    for edge, n in zip([*edges, "+Inf"], [*below, len(scores)], strict=True):
        if n:
            sums[_key("cascade_score_bucket", tier=expert.name, le=str(edge))] += n


def _add_answered(sums: Sums, policy: Policy, pile: _Pile) -> None:
    points, tiers = pile.joined("points"), pile.joined("tiers")
    for k, tier in enumerate(policy.tiers):
        for point, n in _by_point(policy, points[tiers == k]):
            sums[_key("cascade_exits_total", point=point, tier=tier.name)] += n
    for point, n in _by_point(policy, points[pile.joined("labels") == ABSTAINED]):
        sums[_key("cascade_abstentions_total", point=point)] += n
    degraded = pile.joined("degraded")
    for how, reason in _REASONS.items():
        for point, n in _by_point(policy, points[degraded == how]):
            sums[_key("cascade_degraded_total", point=point, reason=reason)] += n
    _add_cost(sums, "cascade_cost_largest_ms_total", policy.tiers[-1], policy, pile)


def _add_cost(sums: Sums, family: str, expert: Tier, policy: Policy, pile: _Pile) -> None:
    """Add what an expert costs for all rows of a pile, at their mean batch; nothing if unknown."""
    if not expert.cost_ms:
        return
    points = pile.joined("points")
    row_ms = expert.cost_per_row_ms(len(points) / len(pile.notes))
    for point, n in _by_point(policy, points):
        sums[_key(family, point=point)] += n * row_ms


def _key(family: str, **labels: str) -> Key:
    return family, tuple(labels.items())


def _by_point(policy: Policy, points: Ints) -> list[tuple[str, int]]:
    """Count rows by the name of their operating point; points without rows are left out."""
    counts = np.bincount(points, minlength=len(policy.points)).tolist()
    return [(name, n) for name, n in zip(policy.point_names, counts, strict=True) if n]
