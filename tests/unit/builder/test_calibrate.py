"""From records to a policy with promises, end to end, on rows with a known truth."""

import json
import re

import numpy as np
import pytest
from synthetic import records

from cascade_builder.calibrate import calibrate
from cascade_builder.records import Records
from cascade_builder.wish import Goal, Wish
from cascade_router import Policy, Walk
from cascade_router.errors import CalibrationError, RecordsError

WISH = Wish(
    goals={
        "careful": Goal(drop=0.02),
        "fast": Goal(drop=0.04),
        "thrifty": Goal(mean_ms=6.0),
        "middling": Goal(efficiency=0.5),
    },
    default="careful",
    batch=1.0,
)


@pytest.fixture(scope="module", params=[True, False], ids=["labels", "no labels"])
def done(request):
    made = records(n=6000, n_tiers=3, labels=request.param)
    return made, calibrate(made, WISH)


def test_the_policy_is_read_as_it_was_written(done):
    """Thresholds are finite, the JSON is strict, digests are the experts'."""
    made, calibration = done
    text = calibration.policy.to_json()
    assert Policy.from_json(text).to_json() == text
    assert [t.digest for t in calibration.policy.tiers] == [t.digest for t in made.tiers]


def test_the_ladder_is_cheapest_first_and_ends_safe(done):
    """All goals are there, and the last tier alone, which nothing can break."""
    _, calibration = done
    names = [point.name for point in calibration.policy.points]
    assert sorted(names) == ["careful", "exact", "fast", "middling", "thrifty"]
    costs = [point.measured["cost_ms"] for point in calibration.policy.points]
    assert costs == sorted(costs)
    exact = calibration.policy.points[names.index("exact")]
    assert [gate.off for gate in exact.gates] == [True, True, False]
    assert exact.certificate["bound"] == 0.0


def test_certificates_state_promise_level_rows_and_method(done):
    """One level for the ladder; the check rows are those nothing was chosen on."""
    made, calibration = done
    expected = "accuracy" if made.labels is not None else "agreement"
    check = len(made.split(0).check)
    for point in calibration.policy.points:
        stated = point.certificate
        assert stated["promise"] == f"{expected} drop at most"
        assert (stated["level"], stated["rows"]) == (0.95, check)
        assert stated["method"]
        assert point.measured["drop"] <= stated["bound"]


def test_goals_are_met(done):
    """Drops are certified at what was asked; the thrifty point costs at most its budget."""
    _, calibration = done
    points = {point.name: point for point in calibration.policy.points}
    assert points["careful"].certificate["bound"] == 0.02
    assert points["fast"].certificate["bound"] == 0.04
    assert points["thrifty"].measured["cost_ms"] == pytest.approx(6.0, rel=0.1)
    assert points["fast"].measured["cost_ms"] <= points["careful"].measured["cost_ms"]


def test_the_walk_measures_what_the_verdict_says(done):
    """Quality and exit shares on the check rows, point by point, through the served walk."""
    made, calibration = done
    policy, rows = calibration.policy, made.split(0).check
    last = made.tiers[-1].logits[rows].argmax(axis=1)
    truth = last if made.labels is None else made.labels[rows]
    for index, point in enumerate(calibration.verdict.points):
        walk = Walk(policy, point=np.full(len(rows), index))
        while (step := walk.next()) is not None:
            walk.settle(step.tier, step.rows, made.tiers[step.tier].logits[rows[step.rows]])
        assert point.quality == pytest.approx((walk.label == truth).mean(), abs=1e-12)
        shares = np.bincount(walk.exit_tier, minlength=3) / len(rows)
        assert point.exit_shares == pytest.approx(shares.tolist())


def test_the_verdict_is_plain_data(done):
    """A report is drawn from it alone: strict JSON, baselines, frontier, reliability, classes."""
    made, calibration = done
    text = json.loads(json.dumps(calibration.verdict.as_json(), allow_nan=False))
    assert [single["name"] for single in text["singles"]] == ["tier0", "tier1", "tier2"]
    assert text["cascade_pays"] is True
    assert len(text["reliability"]) == (3 if made.labels is not None else 2)
    assert sum(row[1] for row in text["classes"]) == text["rows"]["check"]
    assert text["curve"]["oracle_cost_ms"] < min(p["cost_ms"] for p in text["points"][1:])
    for point in text["points"]:
        if point["name"] != "exact":
            assert point["random_quality"] < point["quality"]


def test_the_same_records_and_wish_give_the_same_policy():
    """To the last byte."""
    made = records(n=1500, n_tiers=2)
    wish = Wish(goals={"only": Goal(drop=0.05)}, default="only", batch=1.0)
    assert calibrate(made, wish).policy.to_json() == calibrate(made, wish).policy.to_json()


def test_check_rows_choose_nothing():
    """Other labels on the check rows change certificates and figures, not one threshold."""
    made = records(n=1500, n_tiers=2)
    labels = made.labels.copy()
    check = made.split(0).check
    labels[check] = np.random.default_rng(0).permutation(labels[check])
    other = Records(
        cascade=made.cascade,
        activation="softmax",
        n_classes=4,
        tiers=made.tiers,
        ids=made.ids,
        labels=labels,
    )
    wish = Wish(goals={"cheap": Goal(mean_ms=2.5)}, default="cheap", batch=1.0)
    a, b = calibrate(made, wish).policy, calibrate(other, wish).policy
    assert [p.gates for p in a.points if p.name == "cheap"] == [
        p.gates for p in b.points if p.name == "cheap"
    ]
    assert [t.score for t in a.tiers] == [t.score for t in b.tiers]


def test_a_promise_that_cannot_be_kept_is_an_error():
    """It names the best that can be promised, and how many rows the wish would need."""
    wish = Wish(goals={"tight": Goal(drop=0.01)}, default="tight", batch=1.0)
    with pytest.raises(CalibrationError, match="tight: not certified") as caught:
        calibrate(records(n=1000), wish)
    assert "best that can be promised" in caught.value.message
    assert re.search(r"give about \d+ check rows", caught.value.hint)


def test_a_refused_goal_beside_a_kept_default_is_listed():
    """The ladder goes without it; the verdict says what was missing."""
    wish = Wish(goals={"tight": Goal(drop=0.0005)}, default="exact", batch=1.0)
    calibration = calibrate(records(n=1000), wish)
    assert [point.name for point in calibration.policy.points] == ["exact"]
    refused = calibration.verdict.refused[0]
    assert refused["name"] == "tight"
    assert refused["best"] > 0.0005


def test_do_not_cascade_when_one_expert_does_as_well():
    """A small expert as good as the last leaves nothing to gain: the verdict says so."""
    made = records(n=2000, n_tiers=2, tables=[{1: 1.0}, {1: 10.0}])
    made.tiers[0].logits[:] = made.tiers[1].logits
    wish = Wish(goals={"only": Goal(drop=0.02)}, default="only", batch=1.0)
    verdict = calibrate(made, wish).verdict
    assert verdict.cascade_pays is False
    assert verdict.reason.startswith("do not cascade")


def test_costs_that_cannot_be_met_are_an_error():
    """The hint says what the cheapest point costs."""
    wish = Wish(goals={"free": Goal(mean_ms=0.5)}, default="free", batch=1.0)
    with pytest.raises(CalibrationError, match="no point costs at most") as caught:
        calibrate(records(n=1000), wish)
    assert "cheapest costs 1 ms" in caught.value.hint


def test_the_worst_case_leaves_out_what_is_too_dear():
    """No row may run tiers that add up to more."""
    wish = Wish(goals={"bounded": Goal(worst_ms=21.0)}, default="bounded", batch=1.0)
    calibration = calibrate(records(n=2000), wish)
    assert {p.name: p.worst_ms for p in calibration.verdict.points}["bounded"] <= 21.0


def test_an_efficiency_preference_runs_along_the_frontier():
    """0 is the best quality, 1 the cheapest; costs fall between."""
    goals = {f"e{i}": Goal(efficiency=i / 4) for i in range(5)}
    wish = Wish(goals=goals, default="e0", batch=1.0)
    points = {p.name: p.cost_ms for p in calibrate(records(n=1500, n_tiers=2), wish).verdict.points}
    costs = [points[f"e{i}"] for i in range(5)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(1.0)


def test_few_rows_are_an_error_of_the_records():
    """Two rows cannot be dealt into three sets."""
    with pytest.raises(RecordsError, match="rows leave"):
        calibrate(records(n=2), WISH)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Goal(),
        lambda: Goal(drop=-0.1),
        lambda: Goal(drop=0.1, efficiency=0.5),
        lambda: Wish(goals={"exact": Goal(drop=0.1)}, default="exact"),
        lambda: Wish(goals={"a b": Goal(drop=0.1)}, default="a b"),
        lambda: Wish(default="other"),
        lambda: Wish(delta=0.0),
    ],
    ids=["nothing", "negative", "two places", "reserved", "no name", "unknown", "level"],
)
def test_a_wish_that_makes_no_sense_is_refused(bad):
    """Before any row is looked at, with the next step."""
    with pytest.raises(CalibrationError) as caught:
        bad()
    assert caught.value.hint


def test_agreement_can_be_promised_where_labels_exist():
    """The person who calibrates says which."""
    wish = Wish(goals={"only": Goal(drop=0.05)}, default="only", batch=1.0, with_labels=False)
    calibration = calibrate(records(n=1500, n_tiers=2), wish)
    assert calibration.verdict.measure == "agreement"
    assert calibration.verdict.singles[-1].quality == 1.0


def test_accuracy_cannot_be_promised_without_labels():
    """A clear error, not a guess."""
    wish = Wish(goals={"only": Goal(drop=0.05)}, default="only", with_labels=True)
    with pytest.raises(CalibrationError, match="hold no labels"):
        calibrate(records(labels=False), wish)
