"""The figures of a measurement, and the median over several rounds of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .bench import Labels, Records

__all__ = ["Summary", "agreement", "median", "summarise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a candidate did under a load. A figure that cannot be given is NaN.

    Attributes:
        requests: Requests measured, failed ones included.
        rows_per_s: Rows answered per second.
        p50_ms: Median latency of answered requests; p95_ms, p99_ms likewise.
        lag_p99_ms: How late the generator itself was (open loop): where this is not small
            against the latencies, the client is the bottleneck and the figures are its own.
        tier_share: Share of answered rows by tier, 0 to 1.
        tier_p50_ms: Median latency of the rows a tier answered, by tier.
        errors: Failed requests by error class.
    """

    requests: int
    rows_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    lag_p99_ms: float
    tier_share: Mapping[int, float]
    tier_p50_ms: Mapping[int, float]
    errors: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """Write for machines; NaN becomes null."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def summarise(records: Records) -> Summary:
    """Compute the figures of one measurement."""
    answered = records.answered
    latency = records.latency_ms[answered]
    tiers = records.tiers[answered]
    row_latency = np.broadcast_to(latency[:, None], tiers.shape)
    known = sorted(int(tier) for tier in np.unique(tiers) if tier >= 0)
    n_rows = int((answered & records.in_time).sum()) * records.rows.shape[1]
    p50, p95, p99 = (_percentile(latency, q) for q in (50, 95, 99))
    return Summary(
        requests=len(records.errors),
        rows_per_s=n_rows / records.seconds if records.seconds > 0 else float("nan"),
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        lag_p99_ms=_percentile(records.lag_ms, 99),
        tier_share={tier: float((tiers == tier).mean()) for tier in known},
        tier_p50_ms={tier: _percentile(row_latency[tiers == tier], 50) for tier in known},
        errors=dict(sorted(Counter(e for e in records.errors if e is not None).items())),
    )


def median(rounds: Sequence[Summary]) -> Summary:
    """Take the median of every figure over rounds; requests and errors are added up.

    A tier that a round did not see counts there with share 0.
    """
    tiers = sorted({tier for summary in rounds for tier in summary.tier_share})
    errors: Counter[str] = Counter()
    for summary in rounds:
        errors.update(summary.errors)
    middle: dict[str, float] = {
        name: _median([getattr(summary, name) for summary in rounds])
        for name in ("rows_per_s", "p50_ms", "p95_ms", "p99_ms", "lag_p99_ms")
    }
    return Summary(
        requests=sum(summary.requests for summary in rounds),
        tier_share={t: _median([s.tier_share.get(t, 0.0) for s in rounds]) for t in tiers},
        tier_p50_ms={
            t: _median([s.tier_p50_ms[t] for s in rounds if t in s.tier_p50_ms]) for t in tiers
        },
        errors=dict(sorted(errors.items())),
        **middle,
    )


def agreement(
    records: Sequence[Records],
    reference: Labels,
    same: Callable[[Labels, Labels], npt.NDArray[np.bool_]],
) -> float:
    """Say which share of answered rows has the label of a reference.

    Args:
        records: Measurements of one candidate.
        reference: (N,) int64, label of each input row; -1: not known, the row is left out.
        same: Where two arrays of labels count as the same.

    Returns:
        0 to 1; NaN where nothing can be compared.
    """
    n = agreed = 0
    for one in records:
        expected = reference[one.rows]
        known = (one.labels >= 0) & (expected >= 0)
        n += int(known.sum())
        agreed += int(same(one.labels[known], expected[known]).sum())
    return agreed / n if n else float("nan")


def _percentile(values: npt.NDArray[np.floating[Any]], q: float) -> float:
    return float(np.percentile(values, q)) if values.size else float("nan")


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.median(known)) if known else float("nan")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value
