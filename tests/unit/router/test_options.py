"""What a request may ask for, and what it is told when it asks for something else."""

import dataclasses
import json

import pytest

from cascade_router import Gate, OperatingPoint, Policy, RequestError, Tier
from cascade_router.options import Options

POLICY = Policy(
    cascade="c",
    activation="softmax",
    n_classes=2,
    tiers=tuple(Tier(name=n, model=n, digest="d") for n in "abc"),
    points=tuple(
        OperatingPoint(name=n, gates=(Gate(threshold=0.5), Gate(threshold=0.5), Gate()))
        for n in ("fast", "exact")
    ),
    default="exact",
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", (1, 0, 2)),
        ("{}", (1, 0, 2)),
        ('{"cascade_point": "fast"}', (0, 0, 2)),
        ('{"cascade_min_tier": 1, "cascade_max_tier": "1"}', (1, 1, 1)),
        ('{"my_own": 3.5, "priority": 1}', (1, 0, 2)),
    ],
)
def test_options_are_read(given, expected):
    """Missing options have defaults, digits may come as text, foreign parameters are let pass."""
    asked = Options.of(given, POLICY)

    assert (asked.point, asked.min_tier, asked.max_tier) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cascade_point": "turbo"}, "'turbo' is unknown; this policy has fast, exact"),
        ({"cascade_point": 7}, "'7' is unknown"),
        ({"cascade_points": "fast"}, "cascade_points: no such parameter"),
        ({"cascade_max_tier": 3}, "got 3, expected a tier from 0 to 2"),
        ({"cascade_max_tier": -1}, "got -1, expected"),
        ({"cascade_min_tier": 1.5}, "got 1.5, expected"),
        ({"cascade_min_tier": True}, "got True, expected"),
        ({"cascade_min_tier": "two"}, "got 'two', expected"),
        ({"cascade_efficiency": 0.5}, "this policy has no certified points"),
        ({"cascade_efficiency": 1.5}, "got 1.5, expected a number from 0 to 1"),
        ({"cascade_efficiency": "much"}, "got 'much', expected a number"),
        ({"cascade_efficiency": True}, "got True, expected a number"),
        ({"cascade_efficiency": 10**400}, "0, expected a number from 0 to 1"),
        ({"cascade_efficiency": 0.5, "cascade_point": "fast"}, "given beside cascade_point"),
        ({"cascade_min_tier": 2, "cascade_max_tier": 1}, "got 2, above cascade_max_tier 1"),
        ({"cascade_deadline_ms": 0}, "cascade_deadline_ms: got 0, expected a number above 0"),
        ({"cascade_deadline_ms": "soon"}, "cascade_deadline_ms: got 'soon'"),
        ({"cascade_deadline_ms": True}, "cascade_deadline_ms: got True"),
    ],
)
def test_a_wrong_option_is_refused(given, message):
    """The error names the parameter, the value and what was expected."""
    with pytest.raises(RequestError, match=message):
        Options.of(json.dumps(given), POLICY)


@pytest.mark.parametrize(
    ("efficiency", "point"),
    [
        (0, "exact"),
        (0.2, "exact"),
        (0.5, "middle"),
        (0.8, "fast"),
        (1.0, "fast"),
        ("0.5", "middle"),
    ],
)
def test_efficiency_maps_to_the_certified_ladder(efficiency, point):
    """0 is the safest certified point, 1 the cheapest; uncertified points are passed over."""
    gates = POLICY.points[0].gates
    ladder = [("wild", None), ("fast", {}), ("middle", {}), ("exact", {})]
    points = tuple(OperatingPoint(name=n, gates=gates, certificate=c) for n, c in ladder)
    policy = dataclasses.replace(POLICY, points=points)

    asked = Options.of(json.dumps({"cascade_efficiency": efficiency}), policy)

    assert policy.points[asked.point].name == point


@pytest.mark.parametrize(("given", "ms"), [(20, 20.0), (2.5, 2.5), ("7", 7.0)])
def test_a_deadline_is_read_from_numbers_and_text(given, ms):
    """Some clients can only send text; without one there is no bound."""
    assert Options.of(json.dumps({"cascade_deadline_ms": given}), POLICY).deadline_ms == ms
    assert Options.of("", POLICY).deadline_ms == float("inf")
