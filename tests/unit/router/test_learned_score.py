"""The learned score: a logistic regression that a policy carries."""

import json

import numpy as np
import pytest

from cascade_router import PolicyError, Score, probabilities
from cascade_router.scores import FEATURES, Learned
from cascade_router.strict import Table

LEARNED = Learned(
    weights=(1.5, -0.25, 0.0, 2.0, 0.75),
    means=(0.8, 0.5, 0.4, 6.0, 3.0),
    scales=(0.2, 0.3, 0.1, 2.0, 1.5),
    bias=-0.5,
)


def test_it_is_the_log_odds_of_the_standardised_features():
    """Every feature is standardised, weighted and added to the bias."""
    z = np.random.default_rng(0).normal(0, 3, (20, 7)).astype(np.float32)
    p = probabilities(z, "softmax", 2.0)
    expected = np.full(20, -0.5)
    for i, kind in enumerate(FEATURES):
        x = Score(kind=kind, temperature=2.0).of(z, p, "softmax")
        expected += LEARNED.weights[i] * (x - LEARNED.means[i]) / LEARNED.scales[i]
    score = Score(kind="learned", temperature=2.0, learned=LEARNED)
    np.testing.assert_allclose(score.of(z, p, "softmax"), expected, atol=1e-12)


def test_a_row_scores_the_same_in_any_batch():
    """To the last bit, whoever its batch mates are."""
    z = np.random.default_rng(1).normal(0, 3, (33, 10)).astype(np.float32)
    score = Score(kind="learned", learned=LEARNED)
    together = score.of(z, probabilities(z, "softmax"), "softmax")
    for i in range(33):
        row = z[i : i + 1]
        alone = score.of(row, probabilities(row, "softmax"), "softmax")
        assert alone[0] == together[i]


def test_a_nan_logit_scores_nan():
    """A broken row never exits by its score."""
    z = np.array([[1.0, np.nan, 0.0]], np.float32)
    score = Score(kind="learned", learned=LEARNED)
    assert np.isnan(score.of(z, probabilities(z, "softmax"), "softmax")[0])


def test_it_is_read_as_it_was_written():
    """JSON keeps every weight; the other kinds carry none."""
    score = Score(kind="learned", temperature=1.25, learned=LEARNED)
    text = json.loads(json.dumps(score.as_json()))
    assert Score.from_table(Table(text, "score", PolicyError)) == score
    assert Score(kind="margin").as_json() == {"kind": "margin", "temperature": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"margin": [1.0, 0.0, 0.0]},
        {"margin": [1.0, 0.0]},
        {"margin": None},
        {"bias": float("nan")},
        {"extra": 1},
    ],
    ids=["scale 0", "short", "missing", "nan", "unknown"],
)
def test_weights_that_cannot_score_are_refused(change):
    """The message says which number of the policy is wrong."""
    text = Score(kind="learned", learned=LEARNED).as_json()
    text["learned"] = {**text["learned"], **change}
    with pytest.raises(PolicyError, match="learned"):
        Score.from_table(Table(text, "score", PolicyError))


@pytest.mark.parametrize(
    "fields", [{"kind": "learned"}, {"kind": "margin", "learned": LEARNED}], ids=["none", "margin"]
)
def test_weights_belong_to_the_learned_kind(fields):
    """A learned score without weights and a plain one with them are refused."""
    with pytest.raises(PolicyError, match="weights"):
        Score(**fields)
