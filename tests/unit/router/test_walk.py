"""The walk against a dull per-row restatement, and the properties any cascade has."""

import json

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_router import DECIDED, Gate, OperatingPoint, Policy, Score, Tier, Walk

THRESHOLDS = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.5])


def make_policy(points, activation="softmax", answer="last", n_classes=3, scores=None):
    n_tiers = len(points[0])
    tiers = tuple(
        Tier(name=f"t{k}", model=f"m{k}", digest="d", score=(scores or [Score()] * n_tiers)[k])
        for k in range(n_tiers)
    )
    named = tuple(OperatingPoint(name=f"p{i}", gates=tuple(g)) for i, g in enumerate(points))
    return Policy(
        cascade="c",
        activation=activation,
        n_classes=n_classes,
        answer=answer,
        tiers=tiers,
        points=named,
        default="p0",
    )


def replay(policy, logits, point, min_tier=0, max_tier=None):
    walk = Walk(policy, point=np.asarray(point), min_tier=min_tier, max_tier=max_tier)
    while (step := walk.next()) is not None:
        walk.settle(step.tier, step.rows, logits[step.tier][step.rows])
    return walk


@st.composite
def cascades(draw):
    n_tiers = draw(st.integers(1, 4))
    points = []
    for _ in range(draw(st.integers(1, 3))):
        gates = []
        for k in range(n_tiers - 1):
            skip = draw(st.booleans()) and k + 1 < n_tiers
            gates.append(
                Gate(
                    threshold=draw(THRESHOLDS),
                    off=draw(st.booleans()),
                    skip_below=draw(THRESHOLDS) if skip else float("-inf"),
                    skip_to=draw(st.integers(k + 1, n_tiers - 1)) if skip else None,
                )
            )
        points.append([*gates, Gate()])
    scores = [Score(temperature=draw(st.sampled_from([0.5, 1.0, 2.0]))) for _ in range(n_tiers)]
    return make_policy(points, draw(st.sampled_from(["softmax", "sigmoid"])), scores=scores)


@st.composite
def traffic(draw):
    policy = draw(cascades())
    n, last = draw(st.integers(1, 12)), len(policy.tiers) - 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(0, 2, (last + 1, n, 3)).astype(np.float32)
    point = rng.integers(0, len(policy.points), n)
    low = rng.integers(0, last + 1, n)
    high = rng.integers(low, last + 1)
    return policy, logits, point, low, high


@settings(max_examples=300, deadline=None)
@given(traffic())
def test_walk_answers_as_the_dull_oracle(case):
    """Every row, at every point and within every bound, is answered as one row alone would be."""
    policy, logits, point, low, high = case
    values = json.loads(policy.to_json())

    walk = replay(policy, logits, point, low, high)

    for i in range(len(point)):
        name = policy.points[point[i]].name
        tier, label, confidence = oracle.answer(values, logits[:, i], name, low[i], high[i])
        assert (tier, label) == (walk.exit_tier[i], walk.label[i])
        assert walk.confidence[i] == pytest.approx(confidence, abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(traffic(), st.integers(0, 2**32 - 1))
def test_answers_do_not_depend_on_order_or_batch_mates(case, seed):
    """Permuted and split anyhow, rows get bit for bit the same answers."""
    policy, logits, point, low, high = case
    whole = replay(policy, logits, point, low, high)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(point))

    for part in np.array_split(order, rng.integers(1, len(point) + 1)):
        if len(part):
            walk = replay(policy, logits[:, part], point[part], low[part], high[part])
            np.testing.assert_array_equal(walk.exit_tier, whole.exit_tier[part])
            np.testing.assert_array_equal(walk.scores, whole.scores[part])


@settings(max_examples=100, deadline=None)
@given(st.lists(THRESHOLDS, min_size=2, max_size=2), st.integers(0, 1), st.integers(0, 1000))
def test_raising_a_threshold_never_adds_exits_there(thresholds, gate, seed):
    """Fewer or as many rows exit at a gate whose threshold rises."""
    logits = np.random.default_rng(seed).normal(0, 2, (3, 50, 3)).astype(np.float32)
    raised = list(thresholds)
    raised[gate] += 0.2
    exits = []
    for values in (thresholds, raised):
        policy = make_policy([[*(Gate(threshold=t) for t in values), Gate()]])
        walk = replay(policy, logits, np.zeros(50, dtype=int))
        exits.append(np.count_nonzero(walk.exit_tier <= gate))

    assert exits[1] <= exits[0]


def test_a_score_equal_to_the_threshold_exits():
    """At equality a row exits; one step above, it escalates."""
    logits = np.log(np.array([[[0.5, 0.25, 0.25]], [[0.2, 0.6, 0.2]]], dtype=np.float32))
    score = float(replay(make_policy([[Gate(), Gate()]]), logits, [0]).confidence[0])

    for threshold, tier in ((score, 0), (np.nextafter(score, 2), 1)):
        policy = make_policy([[Gate(threshold=threshold), Gate()]])
        assert replay(policy, logits, [0]).exit_tier[0] == tier


def test_nan_escalates_and_the_last_tier_answers_anyway():
    """A NaN score never exits by its gate; at the top the row is answered all the same."""
    logits = np.full((2, 1, 3), np.nan, dtype=np.float32)

    walk = replay(make_policy([[Gate(threshold=0.0), Gate()]]), logits, [0])

    assert walk.exit_tier[0] == 1
    assert walk.decided.all()


def test_mean_answer_averages_the_tiers_that_ran():
    """With answer "mean" the probabilities of all tiers that ran are averaged."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 1, (3, 20, 3)).astype(np.float32)
    policy = make_policy([[Gate(threshold=2), Gate(threshold=2), Gate()]], answer="mean")

    walk = replay(policy, logits, np.zeros(20, dtype=int))

    probs = np.array([[oracle.softmax(row) for row in tier] for tier in logits])
    np.testing.assert_allclose(walk.scores, probs.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(walk.label, probs.mean(axis=0).argmax(axis=1))


def test_stop_keeps_the_best_answer_so_far():
    """A stopped row is decided with what the last tier that ran said."""
    policy = make_policy([[Gate(threshold=2), Gate()]])
    walk = Walk(policy, point=np.zeros(2, dtype=int))
    walk.settle(0, np.arange(2), np.array([[3, 0, 0], [0, 3, 0]], dtype=np.float32))

    walk.stop(np.array([1]))

    assert walk.tier.tolist() == [1, DECIDED]
    assert walk.exit_tier.tolist() == [0, 0]
    assert walk.label.tolist() == [0, 1]


def test_logits_of_another_shape_are_refused():
    """A tier that returns the wrong number of classes or rows is our caller's bug."""
    walk = Walk(make_policy([[Gate(threshold=2), Gate()]]), point=np.zeros(2, dtype=int))

    with pytest.raises(ValueError, match=r"expected logits \(2, 3\), got \(2, 4\)"):
        walk.settle(0, np.arange(2), np.zeros((2, 4), dtype=np.float32))
