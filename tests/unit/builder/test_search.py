"""Smooth paths, climbing, skips and the choice between readings."""

import numpy as np
import pytest
from synthetic import costs_of, records

from cascade_builder.ascent import ascend
from cascade_builder.dispatch import with_dispatch
from cascade_builder.frontier import subsets
from cascade_builder.path import smooth_path
from cascade_builder.pool import EXACT, PRICES, SMOOTH, Search, shortlist
from cascade_builder.replay import Reading, View, gates_from, replay
from cascade_builder.scored import Scored
from cascade_builder.selection import plain, readings_from, select
from cascade_router import Gate, Score

ALL = tuple(subsets(3))


def view_of(made, n=None):
    return View(
        scored=Scored(made, with_labels=True),
        reading=plain(len(made.tiers)),
        rows=np.arange(n or len(made)),
    )


def test_a_smooth_path_comes_close_to_the_exact_frontier_on_fresh_rows():
    """Chosen on 20,000 rows, what it gains at any price is within a thousandth of the grid's."""
    made = records(n=40_000, n_tiers=3, seed=2)
    view, costs = view_of(made, 20_000), costs_of(made)
    rest = view.at(np.arange(20_000, 40_000))
    exact, smooth = (Search(kind, ALL).pool(view, costs) for kind in (EXACT, SMOOTH))
    for price in (0.0005, 0.002, 0.008):
        values = []
        for pool in (exact, smooth):
            done = replay(rest, pool.gates[pool.best(price)], costs)
            values.append(done.right.mean() - price * done.cost_ms)
        assert values[1] == pytest.approx(values[0], abs=1e-3)


def test_dear_milliseconds_lower_thresholds():
    """Along the prices the first gate of two lets ever more rows exit."""
    made = records(n=2000, n_tiers=2, seed=1)
    view, costs = view_of(made), costs_of(made)
    path = smooth_path(view, costs, (0, 1), PRICES / 4)[:, 0]
    assert (np.diff(path) <= 0).all()
    assert not np.isin(path, view.score(0)).any()


@pytest.mark.parametrize("scores", ["equal", "nan", "few"])
def test_a_path_through_poor_scores_is_still_a_path(scores):
    """All scores equal, all NaN, or two rows: thresholds are finite numbers."""
    made = records(n=2 if scores == "few" else 50, n_tiers=3)
    if scores == "equal":
        made.tiers[0].logits[:] = 1.0
    elif scores == "nan":
        made.tiers[0].logits[:] = np.nan
    view = view_of(made)
    assert np.isfinite(smooth_path(view, costs_of(made), (0, 1, 2), [0.001, 0.1])).all()


@pytest.mark.parametrize("n_tiers", [5, 6])
def test_climbing_counts_what_replay_does_and_beats_fewer_tiers(n_tiers):
    """Beyond four tiers: every point is true, and at a price the pool is as good as any subset."""
    made = records(n=500, n_tiers=n_tiers, seed=4, skill=0.5)
    view, costs = view_of(made), costs_of(made)
    for point in ascend(view, costs):
        done = replay(view, point.gates, costs)
        assert int(done.right.sum()) == point.right
        assert done.cost_ms == pytest.approx(point.cost_ms)


def test_a_large_pool_is_searched_among_its_best_sub_cascades():
    """Seven tiers: singles, all together and the sub-cascades of a coarse frontier; no more."""
    made = records(n=300, n_tiers=7, seed=4, tables=[{1: 2.0**k} for k in range(7)], skill=0.5)
    view, costs = view_of(made), costs_of(made)
    among = shortlist(view, costs, most=10)
    assert {(k,) for k in range(7)} | {tuple(range(7))} <= set(among)
    assert len(among) <= 7 + 10 + 1
    assert len(set(among)) == len(among)
    for kind in (SMOOTH, EXACT):
        pool = Search(kind, among).pool(view, costs)
        done = replay(view, pool.gates[len(pool) // 2], costs)
        assert int(done.right.sum()) == pool.right[len(pool) // 2]


def test_climbing_finds_the_exact_optimum_of_three_tiers():
    """At a middling price it is within half a thousandth of the exact grid."""
    made = records(n=1000, n_tiers=3, seed=5)
    view, costs = view_of(made), costs_of(made)
    pool = Search(EXACT, ALL).pool(view, costs)
    points = list(ascend(view, costs))
    for price in (0.001, 0.005):
        best = max(p.right / 1000 - price * p.cost_ms for p in points)
        at = pool.best(price)
        exact = pool.right[at] / 1000 - price * pool.cost_ms[at]
        assert best >= exact - 1.5e-3


def hopeless(n, seed):
    """A first tier that knows which rows the middle tier, as dear as the last, will fail."""
    rng = np.random.default_rng(seed)
    made = records(n=n, n_tiers=3, seed=seed, tables=[{1: 1.0}, {1: 15.0}, {1: 20.0}])
    kind = rng.choice(3, n, p=[0.4, 0.3, 0.3])
    confidence = np.array([6.0, 2.0, 0.2])[kind] + rng.uniform(0, 0.15, n)
    for k, strength in enumerate([confidence, np.where(kind == 2, 0.2, 6.0), np.full(n, 6.0)]):
        z = np.zeros((n, 4), dtype=np.float32)
        answer = made.labels.copy()
        if k == 0:
            answer[kind > 0] = (answer[kind > 0] + 1) % 4
        if k == 1:
            answer[kind == 2] = (answer[kind == 2] + 1) % 4
        z[np.arange(n), answer] = strength
        made.tiers[k].logits[:] = z
    return made


def test_a_skip_that_pays_is_found():
    """Rows the middle tier cannot answer go from the first straight to the last."""
    made = hopeless(1000, 0)
    view, costs = view_of(made), costs_of(made)
    gates = gates_from((0, 1, 2), [0.95, 0.95], 3)
    skipping = with_dispatch(view, gates, costs, 0.005, 0)
    assert skipping[0].skip_to == 2
    before, after = replay(view, gates, costs), replay(view, skipping, costs)
    assert after.right.sum() == before.right.sum()
    assert after.cost_ms < before.cost_ms - 3


def test_a_skip_that_does_not_pay_is_not_offered():
    """Where the middle tier earns its place, gates stay as they are."""
    made = records(n=2000, n_tiers=3, seed=6)
    gates = gates_from((0, 1, 2), [0.9, 0.8], 3)
    assert with_dispatch(view_of(made), gates, costs_of(made), 0.002, 0) is gates


def test_a_better_score_is_kept_and_a_noisy_one_is_not():
    """The margin knows what the largest probability does not: it wins; else plain stays."""
    rng = np.random.default_rng(7)
    made = records(n=1500, n_tiers=2, n_classes=6, seed=7)
    first = made.tiers[0].logits
    # A flat rest lowers the largest probability of half the rows and says nothing.
    flat = rng.random(1500) < 0.5
    top = np.argsort(-first, axis=1)[:, :2]
    rest = np.ones_like(first, dtype=bool)
    np.put_along_axis(rest, top, False, axis=1)
    second = np.take_along_axis(first, top[:, 1:], axis=1)
    first[:] = np.where(rest, np.where(flat[:, None], second - 0.01, -9.0), first)
    scored = Scored(made, with_labels=True)
    readings = [
        Reading(scores=(Score(kind=kind),) * 2) for kind in ("max_prob", "logit_gap", "energy")
    ]
    fit, choose = np.arange(500), np.arange(500, 1500)
    kept, trials = select(
        scored,
        readings,
        costs_of(made),
        fit=fit,
        choose=choose,
        wish=0.02,
        seed=0,
        among=((0,), (1,), (0, 1)),
    )
    assert kept.scores[0].kind == "logit_gap"
    assert [t.name for t in trials if t.kept] == ["logit_gap"]
    kept, _ = select(
        scored,
        readings[::2],
        costs_of(made),
        fit=fit,
        choose=choose,
        wish=0.02,
        seed=0,
        among=((0,), (1,), (0, 1)),
    )
    assert kept.scores[0].kind == "max_prob"


def test_readings_start_plain_and_none_is_tried_twice():
    """The first is the largest probability; names tell them apart."""
    scored = Scored(records(n=200), with_labels=True)
    readings = readings_from(scored, np.arange(100), [1.5, 0.8, 1.1])
    names = [reading.name for reading in readings]
    assert readings[0] == plain(3)
    assert len(set(names)) == len(names)
    assert {r.scores[0].kind for r in readings if r.trained} == {"learned"}


def test_gates_run_exactly_the_tiers_named():
    """All others are off; the last one named lets every row exit."""
    expected = (Gate(off=True), Gate(threshold=0.5), Gate(off=True), Gate())
    assert gates_from((1, 3), [0.5], 4) == expected
