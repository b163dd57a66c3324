"""What is learned from fit rows comes out as it was planted."""

import numpy as np
import pytest

from cascade_builder.learning import learned_from, temperature_from
from cascade_router import Score, probabilities
from cascade_router.scores import FEATURES


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_a_planted_temperature_is_found(true):
    """Labels drawn from softmax(z / T) give back T."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 3, (6000, 5)).astype(np.float32)
    p = probabilities(z, "softmax", true)
    labels = (p.cumsum(axis=1) < rng.random((6000, 1))).sum(axis=1).clip(0, 4)
    found = temperature_from(z, labels, z.argmax(axis=1) == labels, "softmax")
    assert found == pytest.approx(true, rel=0.08)


def test_a_sigmoid_temperature_makes_the_confidence_the_chance_to_be_right():
    """The event is that the answer counts as right, whatever the tolerance made of it."""
    rng = np.random.default_rng(1)
    z = rng.normal(0, 2, (8000, 6)).astype(np.float32)
    right = rng.random(8000) < 1 / (1 + np.exp(-z.max(axis=1) / 2.5))
    found = temperature_from(z, np.zeros(8000, int), right, "sigmoid")
    assert found == pytest.approx(2.5, rel=0.08)


def test_no_rows_teach_no_temperature():
    """1 is what a tier has before it learned."""
    none = np.zeros(0, int)
    assert temperature_from(np.zeros((0, 4)), none, none.astype(bool), "softmax") == 1.0


def test_planted_weights_are_found():
    """Rows drawn from a logistic model of the features give back its order of rows."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (5, 20_000)) * np.array([[1.0], [2.0], [0.5], [10.0], [3.0]]) + 4
    planted = np.array([1.0, 0.0, -0.8, 0.05, 0.0])
    log_odds = planted @ (x - 4)
    safe = rng.random(20_000) < 1 / (1 + np.exp(-log_odds))
    found = learned_from(list(x), safe)
    actual = np.array(found.weights) / np.array(found.scales)
    np.testing.assert_allclose(actual, planted, atol=0.06)


def test_rows_with_nan_teach_nothing():
    """They are left out; the rest learns as if they were not there."""
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (5, 500))
    safe = rng.random(500) < 0.7
    broken = np.concatenate([x, np.full((5, 3), np.nan)], axis=1)
    expected = learned_from(list(x), safe)
    assert learned_from(list(broken), np.append(safe, [True] * 3)) == expected


@pytest.mark.parametrize("target", [True, False])
def test_a_target_that_never_varies_gives_finite_weights(target):
    """The penalty keeps them finite."""
    z = np.random.default_rng(4).normal(0, 2, (100, 4)).astype(np.float32)
    p = probabilities(z, "softmax")
    features = [Score(kind=kind).of(z, p, "softmax") for kind in FEATURES]
    found = learned_from(features, np.full(100, target))
    assert np.isfinite(found.of(features)).all()
