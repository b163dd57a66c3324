"""Candidates side by side."""

import asyncio

import numpy as np
import pytest
from fake_cascade import POLICY, AsyncFake, FakeCascade, row

from cascade_client.bench import Load
from cascade_client.calls import Infer
from cascade_client.compare import candidates_of, measure
from cascade_router.errors import RequestError

LOAD = Load(concurrency=3, seconds=30.0, requests=40, warmup_s=0.0)


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([row(i % 4, i / 20) for i in range(20)]))
    return path


def run(fake, rows_file, **options):
    steps = []
    transport = AsyncFake(fake)
    comparison = asyncio.run(
        measure(
            "here",
            "pitch",
            paths=[rows_file],
            load=LOAD,
            transport=transport,
            progress=lambda *step: steps.append(step),
            **options,
        )
    )
    return comparison, steps


def test_points_and_baselines_take_turns(fake, rows_file):
    """Each in every round, the order turning; then the reference labels the rows."""
    comparison, steps = run(fake, rows_file, baselines=True, n_rounds=2)

    assert [r.candidate.name for r in comparison.results] == [
        "fast",
        "sure",
        "largest alone (full)",
        "smallest alone (tiny)",
    ]
    names = [what.partition(": ")[2] for _, _, what in steps[:8]]
    assert sorted(names[:4]) == sorted(names[4:])
    assert names[:2] == ["fast", "sure"]
    assert names[4:6] == ["sure", "largest alone (full)"]
    assert [done for done, _, _ in steps] == list(range(10))
    assert {total for _, total, _ in steps} == {9}


def test_shares_and_agreement_are_those_of_the_rows(fake, rows_file):
    """Forty requests are two passes over twenty rows: a quarter, three quarters exit early."""
    comparison, _ = run(fake, rows_file, baselines=True, n_rounds=1)
    share = {r.candidate.name: r.summary.tier_share for r in comparison.results}

    assert share["fast"] == pytest.approx({0: 0.75, 1: 0.25})
    assert share["sure"] == pytest.approx({0: 0.25, 1: 0.75})
    assert share["largest alone (full)"] == {1: 1.0}
    assert share["smallest alone (tiny)"] == {0: 1.0}
    assert [r.agreement for r in comparison.results] == [1.0] * 4
    assert comparison.n_rows == 20
    assert comparison.reference == "largest alone (full)"


def test_each_row_is_labelled_once_by_the_largest(fake, rows_file):
    """However often it was sent."""
    run(fake, rows_file, points=["fast"], n_rounds=2)
    largest = [
        c
        for c in fake.calls
        if isinstance(c, Infer) and c.parameters == {"cascade_min_tier": 1, "cascade_max_tier": 1}
    ]

    assert len(largest) == 20


def test_experts_alone_need_no_cascade(rows_file):
    """A server with one model can be loaded; there is no reference then."""
    fake = FakeCascade()
    fake.models = {"pitch_tiny": fake.models["pitch_tiny"]}

    comparison, _ = run(fake, rows_file, models=["pitch_tiny"])

    assert [r.candidate.name for r in comparison.results] == ["pitch_tiny"]
    assert comparison.as_json()["candidates"][0]["agreement"] is None


def test_an_expert_beside_points_is_compared_too(fake, rows_file):
    """By labels from its own logits."""
    comparison, _ = run(fake, rows_file, points=["fast"], models=["pitch_tiny"])

    assert [(r.candidate.name, r.agreement) for r in comparison.results] == [
        ("fast", 1.0),
        ("pitch_tiny", 1.0),
    ]


def test_what_is_not_there_is_said_before_any_load(fake, rows_file):
    """Unknown points and models."""
    with pytest.raises(RequestError, match="'fats' is unknown"):
        run(fake, rows_file, points=["fats"])
    with pytest.raises(RequestError, match="no 'pitch_tin'"):
        run(fake, rows_file, models=["pitch_tin"])
    assert not fake.inferences


def test_all_points_are_candidates_unless_some_are_named(fake):
    """Cheapest first."""
    spec = fake.models["pitch"]

    assert [c.name for c in candidates_of(spec, POLICY, [], baselines=False)] == ["fast", "sure"]
    assert [c.name for c in candidates_of(spec, POLICY, ["sure"], baselines=False)] == ["sure"]
