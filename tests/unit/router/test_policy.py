"""policy.json: what is read is what was written, and what cannot route is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_router import Gate, OperatingPoint, Policy, PolicyError, RequestError, Score, Tier


def small(**changes):
    values = {
        "cascade": "c",
        "activation": "softmax",
        "n_classes": 3,
        "tiers": (
            Tier(name="a", model="m_a", digest="sha256:1", cost_ms={1: 1.0, 4: 2.0}),
            Tier(name="b", model="m_b", digest="sha256:2", score=Score(kind="margin")),
        ),
        "points": (
            OperatingPoint(name="fast", gates=(Gate(threshold=0.5), Gate())),
            OperatingPoint(
                name="exact",
                gates=(Gate(off=True), Gate()),
                measured={"agreement": 1.0},
                certificate={"level": 0.95},
            ),
        ),
        "default": "fast",
    }
    return Policy(**(values | changes))


def test_json_round_trip():
    """A policy written and read is the same policy."""
    policy = small()

    assert Policy.from_json(policy.to_json()) == policy


@given(st.floats(-1e6, 1e6), st.floats(-1e3, 1e3))
def test_thresholds_survive_json_to_the_last_bit(threshold, skip_below):
    """A threshold that decides here decides there: no digit is lost on the way."""
    gate = Gate(threshold=threshold, skip_below=skip_below, skip_to=1)
    policy = small(points=(OperatingPoint(name="p", gates=(gate, Gate())),), default="p")

    assert Policy.from_json(policy.to_json()).points[0].gates[0] == gate


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema=2), "schema 2, this router reads schema 1"),
        (lambda v: v.update(colour="red"), "policy.json.colour is not a key"),
        (lambda v: v.pop("default"), "'default' is missing"),
        (lambda v: v.update(default="turbo"), "default 'turbo' is no operating point"),
        (lambda v: v["points"][0]["gates"].pop(), "'fast' has 1 gates for 2 tiers"),
        (lambda v: v["points"][0]["gates"][1].update(threshold=0.1), "must let every row exit"),
        (lambda v: v["points"][0]["gates"][0].update(threshold="x"), "got 'x', expected a number"),
        (lambda v: v["points"][1].update(name="fast"), "share a name"),
        (lambda v: v["points"][1].update(name="../x"), "is no name"),
        (lambda v: v["points"][1]["gates"][1].update(off=True), "switches every tier off"),
        (lambda v: v["points"][0]["gates"][0].update(skip_to=0, skip_below=0.1), "cannot skip to"),
        (lambda v: v["tiers"][0]["score"].update(kind="best"), "score.kind: got 'best'"),
        (lambda v: v.update(n_classes=True), "got True, expected a whole number"),
        (lambda v: v.update(points=[]), "at least one tier and one operating point"),
    ],
)
def test_a_policy_that_cannot_route_is_refused(change, message):
    """Whatever is wrong is named, with where it stands."""
    values = json.loads(small().to_json())
    change(values)

    with pytest.raises(PolicyError, match=message.replace("(", r"\(")):
        Policy.from_json(json.dumps(values))


def test_garbage_and_missing_files_are_refused(tmp_path):
    """A broken file is our error, not a traceback of the JSON reader."""
    (tmp_path / "policy.json").write_bytes(b'{"schema": 1, \xff')

    for path in (tmp_path / "policy.json", tmp_path / "none.json"):
        with pytest.raises(PolicyError, match="cannot be read"):
            Policy.read(path)
    with pytest.raises(PolicyError, match="not JSON"):
        Policy.from_json('{"schema": 1')


def test_an_unknown_point_lists_the_known_ones():
    """A caller who mistypes a point is told which there are."""
    with pytest.raises(RequestError, match="'exakt' is unknown; this policy has fast, exact") as e:
        small().index("exakt")

    assert "did you mean 'exact'" in str(e.value)


def test_cost_per_row_is_interpolated_between_measured_batches():
    """Between sizes the cost follows the logarithm of the batch; outside, the nearest counts."""
    tier = small().tiers[0]

    assert tier.cost_per_row_ms(1) == 1.0
    assert tier.cost_per_row_ms(64) == 0.5
    assert tier.cost_per_row_ms(2) == pytest.approx(0.75)
    with pytest.raises(PolicyError, match="'b' has no measured cost"):
        small().tiers[1].cost_per_row_ms(1)


def test_labels_within_the_tolerance_are_the_same():
    """Ordered classes may count as the same a few apart; by default only equal ones do."""
    assert small().same(np.array([1, 2, 3]), 2).tolist() == [False, True, False]
    assert small(label_tolerance=1).same(np.array([1, 2, 3, 4]), 2).tolist() == [
        True,
        True,
        True,
        False,
    ]
