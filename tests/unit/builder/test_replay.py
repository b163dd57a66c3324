"""Replay from scores against the served walk, and scores and answers against dull versions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import costs_of, records, tiers_of

from cascade_builder.records import Records
from cascade_builder.replay import Reading, View, replay
from cascade_builder.scored import Scored
from cascade_router import Gate, OperatingPoint, Policy, Score, Walk, probabilities


def gates_of(rng, scored, scores):
    """Draw gates of three or four tiers: some off, some skipping."""
    n_tiers = scored.n_tiers
    gates = []
    for k in range(n_tiers):
        score = scored.score(k, scores[k])
        low, high = np.sort(rng.choice(score[np.isfinite(score)], 2))
        skip = int(rng.integers(k + 1, n_tiers)) if k < n_tiers - 1 and rng.random() < 0.5 else None
        gates.append(
            Gate(
                threshold=float(high),
                off=bool(rng.random() < 0.2),
                skip_below=float(low) if skip is not None else -np.inf,
                skip_to=skip,
            )
        )
    gates[-1] = Gate()
    return tuple(gates)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n_tiers=st.integers(3, 4),
    answer=st.sampled_from(["last", "mean"]),
    kind=st.sampled_from(["max_prob", "logit_gap"]),
    temperature=st.sampled_from([1.0, 2.5]),
)
def test_replay_does_what_the_walk_does(seed, n_tiers, answer, kind, temperature):
    """Exit tier, right answers and tiers run agree row by row, with skips, NaN and tiers off."""
    made = records(n=60, n_tiers=n_tiers, seed=seed)
    rng = np.random.default_rng(seed)
    made.tiers[1].logits[rng.random(60) < 0.1, 0] = np.nan
    scores = (Score(kind=kind, temperature=temperature),) * n_tiers
    scored = Scored(made, with_labels=True)
    gates = gates_of(rng, scored, scores)
    rows = np.sort(rng.choice(60, 45, replace=False))
    view = View(scored=scored, reading=Reading(scores=scores, answer=answer), rows=rows)
    done = replay(view, gates, costs_of(made))
    policy = Policy(
        cascade="made_up",
        activation="softmax",
        n_classes=4,
        answer=answer,
        tiers=tuple(
            type(t)(name=t.name, model=t.model, digest=t.digest, score=s)
            for t, s in zip(tiers_of(made), scores, strict=True)
        ),
        points=(OperatingPoint(name="point", gates=gates),),
        default="point",
    )
    walk = Walk(policy, point=np.zeros(45, dtype=np.int64))
    ran = np.zeros((n_tiers, 45), dtype=bool)
    while (step := walk.next()) is not None:
        ran[step.tier, step.rows] = True
        walk.settle(step.tier, step.rows, made.tiers[step.tier].logits[rows[step.rows]])
    np.testing.assert_array_equal(done.exit_tier, walk.exit_tier)
    np.testing.assert_array_equal(done.ran, ran)
    np.testing.assert_array_equal(done.right, walk.label == made.labels[rows])


def test_cost_and_shares_add_up():
    """Mean cost is the mean of what each row spent; exit shares add up to 1."""
    made = records(n=100)
    scored = Scored(made, with_labels=True)
    view = View(scored=scored, reading=Reading(scores=(Score(),) * 3), rows=np.arange(100))
    gates = (Gate(threshold=0.9), Gate(threshold=0.8), Gate())
    done = replay(view, gates, costs_of(made))
    expected = sum(c * r for c, r in zip([1.0, 4.0, 20.0], done.ran.mean(axis=1), strict=True))
    assert done.cost_ms == pytest.approx(expected)
    assert done.spent_ms.mean() == pytest.approx(expected)
    assert sum(done.exit_shares) == pytest.approx(1.0)


def test_without_labels_right_means_as_the_last_tier_answers():
    """The last tier agrees with itself on every row, the others where labels are the same."""
    made = records(n=200, labels=False)
    scored = Scored(made, with_labels=False)
    scores = [Score()] * 3
    answers = [probabilities(t.logits, "softmax").argmax(axis=1) for t in made.tiers]
    assert scored.right([2], scores).all()
    np.testing.assert_array_equal(scored.right([0], scores), answers[0] == answers[2])


def test_labels_within_the_tolerance_are_right():
    """Ordered classes: neighbours count as the same."""
    made = records(n=200, n_classes=8)
    wide = Records(
        cascade="c",
        activation="softmax",
        n_classes=8,
        tiers=made.tiers,
        ids=made.ids,
        labels=made.labels,
        label_tolerance=2,
    )
    answers = made.tiers[0].logits.argmax(axis=1)
    expected = np.abs(answers - made.labels) <= 2
    actual = Scored(wide, with_labels=True).right([0], [Score()] * 3)
    np.testing.assert_array_equal(actual, expected)


def test_a_mean_answer_is_the_mean_of_what_ran():
    """The label of the mean probability of exactly these tiers, each at its temperature."""
    made = records(n=200)
    scores = [Score(temperature=0.5), Score(), Score(temperature=2.0)]
    p = [probabilities(made.tiers[k].logits, "softmax", scores[k].temperature) for k in (0, 2)]
    expected = (p[0] + p[1]).argmax(axis=1)
    actual = Scored(made, with_labels=True).labels([0, 2], scores, "mean")
    np.testing.assert_array_equal(actual, expected)


def test_labels_that_are_not_there_cannot_be_asked_for():
    """A wrong argument, not a wrong file."""
    with pytest.raises(ValueError, match="no labels"):
        Scored(records(labels=False), with_labels=True)
