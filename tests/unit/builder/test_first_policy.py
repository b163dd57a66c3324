import json
from dataclasses import replace
from pathlib import Path

import pytest

from cascade_builder.first_policy import choose, first_policy
from cascade_builder.spec import Spec
from cascade_router.policy import Policy

DIGESTS = ["sha256:a", "sha256:b"]


@pytest.fixture
def spec(spec_text: str, tmp_path: Path) -> Spec:
    return Spec.parse(spec_text, tmp_path)


@pytest.fixture
def calibrated(spec: Spec) -> Policy:
    return replace(first_policy(spec, DIGESTS), provenance={"made_by": "calibrate"})


def test_the_first_policy_promises_nothing(spec: Spec) -> None:
    """It routes by the spec's thresholds, has no certificate, and says who made it."""
    policy = Policy.from_json(first_policy(spec, DIGESTS).to_json())
    assert policy.point_names == ["fast", "exact"]
    assert policy.default == "exact"
    assert [point.gates[0].threshold for point in policy.points] == [0.4, 0.9]
    assert [point.certificate for point in policy.points] == [None, None]
    assert policy.provenance == {"made_by": "cascade-builder build", "certified": False}


def test_a_calibrated_policy_that_holds_is_kept(spec: Spec, calibrated: Policy) -> None:
    """Whatever its points are: calibration costs more than a build."""
    text = json.dumps(json.loads(calibrated.to_json()))
    choice = choose(text, first_policy(spec, DIGESTS))
    assert (choice.action, choice.text, choice.old) == ("kept", text, None)


@pytest.mark.parametrize(
    ("digests", "change", "says"),
    [
        (["sha256:a", "sha256:c"], {}, "another 'large'"),
        (DIGESTS, {"label_tolerance": 2}, "label_tolerance 0"),
        (DIGESTS, {"activation": "sigmoid"}, "activation 'softmax'"),
    ],
)
def test_a_policy_that_no_longer_holds_is_put_aside(
    digests: list[str], change: dict[str, object], says: str, spec: Spec, calibrated: Policy
) -> None:
    """It is not lost, and the reason is given."""
    new = first_policy(replace(spec, **change), digests)  # type: ignore[arg-type]
    choice = choose(calibrated.to_json(), new)
    assert (choice.action, choice.text) == ("replaced", new.to_json())
    assert choice.old == calibrated.to_json()
    assert says in choice.reason


def test_a_broken_policy_is_put_aside(spec: Spec) -> None:
    """Nobody can route by it."""
    choice = choose("{", first_policy(spec, DIGESTS))
    assert (choice.action, choice.old) == ("replaced", "{")


def test_new_thresholds_in_the_spec_replace_uncertified_ones(spec: Spec) -> None:
    """A first policy follows its spec."""
    old = first_policy(spec, DIGESTS)
    points = (replace(spec.points[0], thresholds=(0.1,)), spec.points[1])
    choice = choose(old.to_json(), first_policy(replace(spec, points=points), DIGESTS))
    assert (choice.action, choice.reason) == ("replaced", "the points of the spec changed")
