"""Figures of a measurement, against a dull count."""

import json
import math

import numpy as np
import pytest

from cascade_client.bench import Records
from cascade_client.summary import agreement, median, summarise


def records(n=200, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    errors = tuple(rng.choice([None, None, None, "BusyError"], n).tolist())
    answered = np.array([e is None for e in errors])[:, None]
    return Records(
        seconds=2.0,
        latency_ms=rng.exponential(10, n),
        lag_ms=np.zeros(n),
        in_time=rng.random(n) < 0.9,
        rows=rng.integers(0, 30, (n, batch)),
        tiers=np.where(answered, rng.integers(0, 3, (n, batch)), -1),
        labels=np.where(answered, rng.integers(0, 5, (n, batch)), -1),
        errors=errors,
    )


def test_figures_equal_a_dull_count():
    """Row by row, with lists."""
    one = records()
    summary = summarise(one)
    good = [i for i in range(200) if one.errors[i] is None]
    latency = [one.latency_ms[i] for i in good]
    tiers = [(int(t), one.latency_ms[i]) for i in good for t in one.tiers[i]]

    assert summary.requests == 200
    assert summary.rows_per_s == sum(2 for i in good if one.in_time[i]) / 2.0
    assert summary.p95_ms == pytest.approx(np.percentile(latency, 95))
    assert summary.errors == {"BusyError": 200 - len(good)}
    for tier in range(3):
        of_tier = [ms for t, ms in tiers if t == tier]
        assert summary.tier_share[tier] == pytest.approx(len(of_tier) / len(tiers))
        assert summary.tier_p50_ms[tier] == pytest.approx(np.median(of_tier))
    assert sum(summary.tier_share.values()) == pytest.approx(1.0)


def test_the_median_is_of_every_figure_by_itself():
    """Requests and errors are added up."""
    rounds = [summarise(records(seed=s)) for s in range(3)]
    middle = median(rounds)

    assert middle.requests == 600
    assert middle.p50_ms == sorted(r.p50_ms for r in rounds)[1]
    assert middle.tier_share[1] == sorted(r.tier_share[1] for r in rounds)[1]
    assert middle.errors["BusyError"] == sum(r.errors["BusyError"] for r in rounds)


def test_nothing_answered_is_no_figure():
    """NaN here, null for machines; never a made-up zero."""
    nothing = records(0)
    summary = median([summarise(nothing)])

    assert math.isnan(summary.p50_ms)
    assert json.loads(json.dumps(summary.as_json(), allow_nan=False))["p50_ms"] is None
    assert math.isnan(agreement([nothing], np.zeros(30, np.int64), np.equal))


def test_agreement_counts_rows_that_both_answered():
    """Tolerant where the policy is."""
    one = records()
    reference = np.random.default_rng(1).integers(-1, 5, 30)

    def near(a, b):
        return abs(a - b) <= 1

    for same in (np.equal, near):
        pairs = [
            (int(label), int(reference[r]))
            for labels, rows in zip(one.labels, one.rows, strict=True)
            for label, r in zip(labels, rows, strict=True)
            if label >= 0 and reference[r] >= 0
        ]
        expected = sum(bool(same(a, b)) for a, b in pairs) / len(pairs)
        assert agreement([one], reference, same) == pytest.approx(expected)
