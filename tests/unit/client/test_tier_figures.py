"""What each tier did, from the server's counters."""

import math

import pytest
from fake_cascade import POLICY

from cascade_client.calls import Counts
from cascade_client.tier_figures import first_tier, tier_figures
from cascade_router.gate import Gate
from cascade_router.policy import OperatingPoint, Policy

MODELS = ("pitch", "pitch_router", "pitch_tiny", "pitch_full")


def counts(**by_model):
    return {model: by_model.get(model, Counts("1", 0, 0)) for model in MODELS}


def test_figures_are_differences():
    """Nothing of what was before a level shows in it."""
    before = counts(
        pitch=Counts("1", 1000, 1000),
        pitch_tiny=Counts("1", 900, 100, 90, 500.0, 700.0),
        pitch_full=Counts("1", 300, 100, 90, 500.0, 700.0),
    )
    after = counts(
        pitch=Counts("1", 1200, 1200),
        pitch_tiny=Counts("1", 1100, 150, 140, 600.0, 900.0),
        pitch_full=Counts("1", 350, 110, 110, 580.0, 1200.0),
    )
    tiny, full = tier_figures(POLICY, {"cascade_point": "fast"}, before, after)

    assert (tiny.tier, tiny.reached, tiny.mean_batch) == ("tiny", 1.0, 4.0)
    assert (tiny.queue_ms, tiny.compute_ms) == (2.0, 1.0)
    assert (full.tier, full.reached, full.mean_batch) == ("full", 0.25, 5.0)
    assert (full.queue_ms, full.compute_ms) == (4.0, 10.0)


def test_a_first_tier_inside_the_router_has_the_routers_counters():
    """Its own model sees no row then, though every row reaches it."""
    after = counts(
        pitch=Counts("1", 100, 100),
        pitch_router=Counts("1", 100, 50, 100, 30.0, 80.0),
        pitch_full=Counts("1", 20, 10, 10, 5.0, 400.0),
    )
    tiny, full = tier_figures(POLICY, {"cascade_point": "fast"}, counts(), after)

    assert (tiny.reached, tiny.mean_batch, tiny.queue_ms, tiny.compute_ms) == (1.0, 2.0, 0.3, 0.8)
    assert full.reached == 0.2


def test_a_tier_that_ran_nothing_has_no_figures():
    """No row reached it, so there is no batch and no time."""
    only = {"cascade_min_tier": 1, "cascade_max_tier": 1}
    after = counts(
        pitch=Counts("1", 100, 100),
        pitch_router=Counts("1", 100, 50, 100, 30.0, 80.0),
        pitch_full=Counts("1", 100, 10, 10, 5.0, 400.0),
    )
    tiny, full = tier_figures(POLICY, only, counts(), after)

    assert (tiny.reached, full.reached) == (0.0, 1.0)
    assert all(math.isnan(x) for x in (tiny.mean_batch, tiny.queue_ms, tiny.compute_ms))


def test_counters_that_went_back_say_nothing():
    """A model was loaded anew meanwhile."""
    before = counts(pitch=Counts("1", 50, 50), pitch_tiny=Counts("1", 90, 9, 9, 1.0, 1.0))
    after = counts(pitch=Counts("1", 150, 150), pitch_tiny=Counts("1", 10, 1, 1, 0.1, 0.1))

    tiny, _ = tier_figures(POLICY, {"cascade_point": "fast"}, before, after)

    assert math.isnan(tiny.reached)
    assert math.isnan(tiny.mean_batch)


@pytest.mark.parametrize(
    ("parameters", "first"),
    [
        ({}, 0),
        ({"cascade_point": "late"}, 1),
        ({"cascade_point": "fast", "cascade_min_tier": 1}, 1),
        ({"cascade_point": "late", "cascade_min_tier": 0, "cascade_max_tier": 0}, 0),
    ],
)
def test_the_first_tier_follows_from_point_and_bounds(parameters, first):
    """A tier that the point leaves out is not the first, unless it is the only one allowed."""
    late = OperatingPoint(name="late", gates=(Gate(off=True), Gate()))
    policy = Policy(
        cascade="pitch",
        activation="softmax",
        n_classes=4,
        tiers=POLICY.tiers,
        points=(POLICY.points[0], late),
        default="fast",
    )

    assert first_tier(policy, parameters) == first
