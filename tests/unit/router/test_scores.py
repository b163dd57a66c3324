"""Scores against textbook formulas in double precision."""

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cascade_router import PolicyError, Score, probabilities
from cascade_router.scores import ACTIVATIONS

SCORES = ["max_prob", "margin", "neg_entropy", "energy", "logit_gap"]
LOGITS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(2, 6)),
    elements=st.floats(-20, 20, width=32),
)


@settings(max_examples=200, deadline=None)
@given(
    LOGITS,
    st.sampled_from(SCORES),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from([0.5, 1.0, 3.0]),
)
def test_scores_follow_their_formulas(logits, kind, activation, temperature):
    """Each kind equals its formula computed row by row in double precision."""
    probs = probabilities(logits, activation, temperature)

    got = Score(kind=kind, temperature=temperature).of(logits, probs, activation)

    expected = [oracle.score(kind, row, activation, temperature) for row in logits]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_logits_score_nan(kind, activation):
    """Doubt is not hidden: one NaN logit makes the score NaN."""
    logits = np.array([[0.0, np.nan, 1.0], [0.0, 1.0, 2.0]], dtype=np.float32)

    with np.errstate(invalid="ignore"):
        score = Score(kind=kind).of(logits, probabilities(logits, activation), activation)

    assert np.isnan(score).tolist() == [True, False]


def test_temperature_above_one_lowers_the_top_probability():
    """Softening moves probability away from the top class and keeps the label."""
    logits = np.array([[3.0, 1.0, 0.0]], dtype=np.float32)

    cold, warm = probabilities(logits, "softmax"), probabilities(logits, "softmax", 2.0)

    assert warm.max() < cold.max()
    assert warm.argmax() == cold.argmax()


def test_extreme_logits_do_not_overflow():
    """Probabilities stay finite at the ends of float32."""
    logits = np.array([[1e38, -1e38], [0, 0]], dtype=np.float32)

    for activation in ACTIVATIONS:
        assert np.isfinite(probabilities(logits, activation)).all()


@pytest.mark.parametrize("bad", [{"kind": "nope"}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_a_score_that_cannot_be_computed_is_refused(bad):
    """An unknown kind or a temperature that is not above 0 is refused when made."""
    with pytest.raises(PolicyError, match="unusable"):
        Score(**bad)
