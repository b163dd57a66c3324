"""The planner against pools whose best cascade is known, and against rows counted one by one."""

import dataclasses
import itertools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import DATA, needs
from synthetic import records

from cascade_builder.plan import plan
from cascade_builder.planned import NEEDED, PAYS, PAYS_NOT
from cascade_builder.records import Records, TierRecord
from cascade_builder.wish import Goal
from cascade_router.errors import CalibrationError, RecordsError

SOME = {"careful": Goal(drop=0.02), "cheap": Goal(mean_ms=9.0)}


def pool(n=1000, seed=0):
    """A cheap expert that knows when it is right (7 rows in 10), one that guesses, and one that
    is always right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, n)
    sure = rng.random(n) < 0.7
    cheap = rng.normal(0, 0.1, (n, 4))
    cheap[np.arange(n), truth] += np.where(sure, 6.0, -0.5)
    guesses = rng.normal(0, 3.0, (n, 4))
    best = rng.normal(0, 0.1, (n, 4))
    best[np.arange(n), truth] += 5.0
    return made({"cheap": (1.0, cheap), "guesses": (4.0, guesses), "best": (20.0, best)}, truth)


def made(experts, truth):
    return Records(
        cascade="made_up",
        activation="softmax",
        n_classes=next(iter(experts.values()))[1].shape[1],
        tiers=tuple(
            TierRecord(
                name=name,
                model=f"made_up_{name}",
                digest=f"sha256:{name}",
                logits=np.asarray(logits, dtype=np.float32),
                cost_ms={1: cost},
            )
            for name, (cost, logits) in experts.items()
        ),
        ids=np.arange(len(truth)),
        labels=truth,
    )


def by_hand(given, tiers, thresholds, rows):
    """Accuracy and cost of a cascade on some rows, one row at a time by the dull oracle."""
    policy = {
        "activation": given.activation,
        "default": "point",
        "tiers": [{"score": {}} for _ in tiers],
        "points": [{"name": "point", "gates": [{"threshold": t} for t in thresholds] + [{}]}],
    }
    used = [given.tiers[k] for k in tiers]
    right, cost = 0, 0.0
    for row in rows:
        tier, label, _ = oracle.answer(policy, [one.logits[row] for one in used])
        right += label == given.labels[row]
        cost += sum(one.cost_ms[1] for one in used[: tier + 1])
    return right / len(rows), cost / len(rows)


def test_a_pool_with_one_good_pair_is_planned_as_such():
    """Sure rows stay at the cheap expert, the others go to the best; the guesser is left out."""
    given = pool()
    judge = given.split().fit
    share = np.mean(given.tiers[0].logits[judge].max(axis=1) < 3)

    found = plan(given, {"exact": Goal(drop=0.01)})

    (pick,) = found.picks
    assert pick.experts == ["cheap", "best"]
    assert pick.figures.quality == 1.0
    assert pick.figures.cost_ms == pytest.approx(1 + 20 * share)
    assert pick.oracle_cost_ms == pytest.approx(pick.figures.cost_ms)
    assert {gain.expert: gain.verdict for gain in pick.gains} == {
        "cheap": PAYS,
        "guesses": PAYS_NOT,
        "best": NEEDED,
    }
    cheap, guesses, best = pick.gains
    assert cheap.saved_ms == pytest.approx(19 - 20 * share)
    assert best.quality == pytest.approx(np.mean(given.tiers[0].logits[judge].max(axis=1) < 3))
    assert not guesses.used


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_figures_are_those_of_rows_walked_one_by_one(seed):
    """Quality and cost of every pick, expert alone, ceiling and oracle, counted in plain Python."""
    given = records(n=420, seed=seed)
    rows = given.split().fit.tolist()
    names = [tier.name for tier in given.tiers]
    right = [
        [int(tier.logits[row].argmax() == given.labels[row]) for tier in given.tiers]
        for row in rows
    ]
    stops = [next(k for k in range(3) if r[k] >= r[-1]) for r in right]
    costs = [tier.cost_ms[1] for tier in given.tiers]

    found = plan(given, SOME, batch=1)

    for pick in found.picks:
        quality, cost = by_hand(
            given, [names.index(e) for e in pick.experts], pick.thresholds, rows
        )
        assert pick.figures.quality == pytest.approx(quality)
        assert pick.figures.cost_ms == pytest.approx(cost)
    assert [one.quality for one in found.alone] == pytest.approx(list(np.mean(right, axis=0)))
    assert found.ceiling == pytest.approx(np.mean([max(r) for r in right]))
    assert found.oracle_quality == pytest.approx(
        np.mean([r[k] for r, k in zip(right, stops, strict=True)])
    )
    assert found.oracle_cost_ms == pytest.approx(np.mean([sum(costs[: k + 1]) for k in stops]))


def test_no_cascade_of_the_pool_is_clearly_better():
    """On many fresh rows the pick costs at most a tenth more than any cascade that is as good, all
    sub-cascades and a grid of thresholds tried by brute force."""
    given, fresh = records(n=4000, seed=1), records(n=20_000, seed=2)
    found = plan(given, {"balanced": Goal(drop=0.01)}, batch=1)
    (pick,) = found.picks
    names = [tier.name for tier in given.tiers]
    right = [tier.logits.argmax(axis=1) == fresh.labels for tier in fresh.tiers]
    scores = []
    for tier in fresh.tiers:
        powers = np.exp(tier.logits - tier.logits.max(axis=1, keepdims=True))
        scores.append(1 / powers.sum(axis=1))
    costs = [tier.cost_ms[1] for tier in fresh.tiers]

    def done(tiers, thresholds):
        """Quality and cost of one cascade."""
        waiting, quality, cost = np.ones(20_000, dtype=bool), 0.0, 0.0
        for k, threshold in zip(tiers, [*thresholds, -np.inf], strict=True):
            cost += costs[k] * waiting.mean()
            leaves = waiting & (scores[k] >= threshold)
            quality += (right[k] & leaves).mean()
            waiting &= ~leaves
        return quality, cost

    ours = done([names.index(e) for e in pick.experts], pick.thresholds)
    grid = np.linspace(0.3, 1.0, 29)
    rivals = [
        done(tiers, thresholds)
        for size in (1, 2, 3)
        for tiers in itertools.combinations(range(3), size)
        for thresholds in itertools.product(grid, repeat=size - 1)
    ]
    cheapest = min(cost for quality, cost in rivals if quality >= ours[0] - 1e-12)

    assert right[-1].mean() - ours[0] < 0.02
    assert ours[1] <= 1.1 * cheapest


def test_the_order_in_the_records_does_not_matter():
    """Experts are put in the order of their cost."""
    given = records(n=500, n_tiers=4)
    turned = dataclasses.replace(given, tiers=tuple(reversed(given.tiers)))

    assert plan(turned, SOME).as_json() == plan(given, SOME).as_json()


def test_rows_that_certify_later_are_not_looked_at():
    """Whatever stands in the check rows of a calibration with that seed, the plan is the same."""
    given = records(n=500, seed=3)
    before = plan(given, SOME, seed=5).as_json()
    check = given.split(5).check
    for tier in given.tiers:
        tier.logits[check] = 0.0
    given.labels[check] = 0

    assert plan(given, SOME, seed=5).as_json() == before
    assert plan(given, SOME, seed=6).as_json() != before


def test_a_copy_that_costs_more_is_never_used():
    """Of two experts that say the same the cheaper one does, and the other is told not to pay."""
    given = pool()
    twin = dataclasses.replace(given.tiers[2], name="twin", cost_ms={1: 30.0})
    given = dataclasses.replace(given, tiers=(*given.tiers, twin))

    for pick in plan(given, SOME).picks:
        assert "twin" not in pick.experts
        assert pick.gains[-1].verdict != PAYS


def test_without_labels_the_costliest_expert_is_right():
    """Quality is then agreement with it."""
    given = dataclasses.replace(pool(), labels=None)

    found = plan(given, {"exact": Goal(drop=0.01)})

    assert found.measure == "agreement"
    assert found.alone[-1].quality == 1.0
    assert found.picks[0].experts == ["cheap", "best"]


def test_what_no_plan_can_be_made_of_is_refused():
    """Each with a way out."""
    given = pool(300)
    with pytest.raises(RecordsError, match="300 rows leave 120 to choose on and 90") as caught:
        plan(given, SOME)
    assert caught.value.hint == "record about 340 rows or more"
    given = pool()
    alone = dataclasses.replace(given, tiers=given.tiers[:1])
    with pytest.raises(RecordsError, match="got 1 expert"):
        plan(alone, SOME)
    with pytest.raises(CalibrationError, match="no cascade of this pool meets it") as caught:
        plan(given, {"free": Goal(mean_ms=0.5)})
    assert "'cheap', costs 1 ms a row" in caught.value.hint
    with pytest.raises(CalibrationError, match="efficiency"):
        plan(given, {"odd": Goal(efficiency=0.5)})
    with pytest.raises(CalibrationError, match="less than one of the 300 rows"):
        plan(given, {"fine": Goal(drop=0.001)})
    with pytest.raises(CalibrationError, match="no labels"):
        plan(dataclasses.replace(given, labels=None), SOME, with_labels=True)


def test_budgets_that_buy_nothing_are_not_asked_for_by_default():
    """Where the cheapest expert costs a third of the dearest, a quarter of that is no goal."""
    given = records(n=500, n_tiers=2, tables=[{1: 10.0}, {1: 30.0}])

    assert [pick.name for pick in plan(given, {}).picks] == ["careful", "balanced", "fast", "half"]


def test_a_worst_case_bounds_the_longest_way():
    """A row that runs every expert of the pick costs at most what was allowed."""
    found = plan(pool(), {"bounded": Goal(drop=0.5, worst_ms=6.0)})

    assert found.picks[0].experts in (["cheap"], ["cheap", "guesses"])


@needs("clinc150")
def test_three_ways_to_read_intents():
    """CLINC150: the bag of words sends a fifth of its rows to the six layers; the three layers
    between them are not worth their place."""
    z = np.load(DATA / "clinc150" / "probs_3experts.npz")
    experts = {
        name: (cost, np.log(np.maximum(z[f"test_{name}"].astype(np.float32), 1e-7)))
        for name, cost in {"tfidf": 0.01, "L3": 0.5, "L6": 1.0}.items()
    }
    given = made(experts, z["y"])

    (pick,) = plan(given, {"one": Goal(drop=0.01)}).picks

    assert pick.experts == ["tfidf", "L6"]
    assert 0.15 < pick.figures.cost_ms < 0.3
    assert abs(pick.figures.drop) < 0.012
    assert {gain.expert: gain.verdict for gain in pick.gains}["L3"] != PAYS


@needs("cifar10")
def test_five_networks_for_ten_classes():
    """CIFAR-10: what is asked for is measured on other rows within what luck explains, over three
    splits; a smaller budget never plans a dearer cascade."""
    z = np.load(DATA / "cifar10" / "logits_5experts.npz")
    # Millions of multiply-adds.
    macs = {
        "mlperf_resnet8": 12.5,
        "resnet20": 40.8,
        "resnet32": 69.0,
        "resnet44": 97.0,
        "resnet56": 125.5,
    }
    given = made({name: (cost, z[name][:5000]) for name, cost in macs.items()}, z["y"][:5000])
    goals = {
        "one": Goal(drop=0.01),
        "three": Goal(drop=0.03),
        "half": Goal(mean_ms=62.0),
        "less": Goal(mean_ms=30.0),
    }

    excess = []
    for seed in range(3):
        one, three, half, less = plan(given, goals, seed=seed, most=3).picks
        assert three.figures.cost_ms <= one.figures.cost_ms
        assert less.figures.cost_ms < half.figures.cost_ms < 64
        assert less.figures.quality <= half.figures.quality + 0.005
        assert less.experts[0] == "mlperf_resnet8"  # nothing else is within the budget
        excess += [one.figures.drop - 0.01, three.figures.drop - 0.03]
    assert np.mean(excess) < 0.005
