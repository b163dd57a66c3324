"""The exact frontier against rows sent one configuration at a time through the served walk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import costs_of, records, tiers_of

from cascade_builder.cost_tables import Costs
from cascade_builder.frontier import cuts, grid, grid_frontier, pareto, subsets
from cascade_builder.pool import EXACT, SMOOTH, Search
from cascade_builder.replay import View, gates_from
from cascade_builder.scored import Scored
from cascade_builder.selection import plain
from cascade_router import OperatingPoint, Policy, Score, Walk
from cascade_router.errors import RecordsError

TABLES = [{1: 2.0, 4: 5.0, 16: 12.0}, {1: 7.0, 8: 20.0}, {1: 30.0, 2: 50.0}, {1: 100.0}]


def walked(made, gates, batch, answer="last"):
    """Right answers and mean cost of one vector of gates, by the walk and the policy's tiers."""
    policy = Policy(
        cascade="made_up",
        activation=made.activation,
        n_classes=made.n_classes,
        answer=answer,
        tiers=tuple(tiers_of(made)),
        points=(OperatingPoint(name="point", gates=gates),),
        default="point",
    )
    n = len(made)
    walk = Walk(policy, point=np.zeros(n, dtype=np.int64))
    cost = 0.0
    while (step := walk.next()) is not None:
        reach = len(step.rows) / n
        cost += reach * policy.tiers[step.tier].cost_per_row_ms(batch * reach)
        walk.settle(step.tier, step.rows, made.tiers[step.tier].logits[step.rows])
    return int((walk.label == made.labels).sum()), cost


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 80),
    tiers=st.sampled_from([t for t in subsets(4) if len(t) > 1]),
    n_edges=st.integers(1, 9),
    batch=st.sampled_from([0.5, 1.0, 6.0, 64.0]),
    answer=st.sampled_from(["last", "mean"]),
    coarse=st.booleans(),
)
def test_a_cell_of_the_grid_is_what_the_walk_does(seed, n, tiers, n_edges, batch, answer, coarse):
    """Right answers and cost of sampled cells equal a replay of the logits, ties and NaN too."""
    made = records(n=n, n_tiers=4, seed=seed, tables=TABLES)
    rng = np.random.default_rng(seed)
    for tier in made.tiers:
        if coarse:  # many equal scores
            tier.logits[:] = np.round(tier.logits)
        tier.logits[rng.random(n) < 0.05, 0] = np.nan
    scored = Scored(made, with_labels=True)
    reading = plain(4)
    scores = [scored.score(k, Score()) for k in tiers[:-1]]
    right = [scored.right(tiers[: j + 1], reading.scores, answer) for j in range(len(tiers))]
    edges = [cuts(s, n_edges) for s in scores]
    counts, cost = grid(scores, right, costs_of(made, batch), tiers, edges)
    for _ in range(6):
        cell = tuple(rng.integers(0, len(e)) for e in edges)
        thresholds = [e[i] for e, i in zip(edges, cell, strict=True)]
        gates = gates_from(tiers, thresholds, 4)
        expected_right, expected_cost = walked(made, gates, batch, answer)
        assert expected_right == counts[cell]
        assert expected_cost == pytest.approx(cost[cell], rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-5, 5, width=32), st.sampled_from([0.5, 1.0, float("nan")])),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 30),
)
def test_thresholds_lie_strictly_between_scores(values, n):
    """No score equals a threshold unless no number lies between; the last is above all."""
    scores = np.array(values, dtype=np.float64)
    found = cuts(scores, n)
    known = scores[np.isfinite(scores)]
    assert len(found) <= n
    assert (np.diff(found) > 0).all()
    if len(known):
        assert found[-1] > known.max()
        # float32 scores leave room between neighbours in float64.
        assert not np.isin(found, known).any()


def test_few_scores_give_every_cut_and_many_give_even_ones():
    """All cuts where they fit, else about as many rows between neighbours."""
    np.testing.assert_allclose(cuts(np.array([0.3, 0.1, 0.9, 0.3]), 9), [0.2, 0.6, 1.9])
    scores = np.random.default_rng(0).random(10_000)
    between = np.diff(np.searchsorted(np.sort(scores), cuts(scores, 50)))
    assert between.min() > 190
    assert between.max() < 210


def test_the_frontier_rises_and_nothing_beats_it():
    """Cost and right answers rise from point to point, and no cell is cheaper and better."""
    made = records(n=300, n_tiers=3)
    scored = Scored(made, with_labels=True)
    scores = [scored.score(k, Score()) for k in range(2)]
    right = [scored.right([k], plain(3).scores) for k in range(3)]
    edges = [cuts(s, 40) for s in scores]
    counts, cost = grid(scores, right, costs_of(made), (0, 1, 2), edges)
    found = grid_frontier(scores, right, costs_of(made), (0, 1, 2), edges)
    assert (np.diff(found.cost_ms) > 0).all()
    assert (np.diff(found.right) > 0).all()
    at = np.searchsorted(found.cost_ms, cost.ravel(), side="right") - 1
    assert (found.right[at] >= counts.ravel()).all()


def test_of_equal_points_the_safer_one_is_kept():
    """Equal cost and equal right answers: the last, which has the higher thresholds."""
    assert pareto(np.array([1.0, 1.0, 2.0]), np.array([5, 5, 5])).tolist() == [1]


def test_cost_follows_the_batch_that_survives():
    """A tier that half of the rows reach is charged at half of the batch."""
    made = records(n=10, tables=TABLES)
    costs = costs_of(made, batch=16.0)
    for tier, policy_tier in enumerate(tiers_of(made)):
        for reach in (1.0, 0.5, 0.01):
            expected = reach * policy_tier.cost_per_row_ms(16 * reach)
            assert costs.spent(tier, np.array(reach)) == pytest.approx(expected, rel=1e-12)


def test_a_tier_without_a_cost_is_refused():
    """Nothing is optimised against a cost nobody measured."""
    made = records(n=10, tables=[{1: 1.0}, {}, {1: 3.0}])
    with pytest.raises(RecordsError, match="'tier1' has no measured cost"):
        Costs.of(tiers_of(made), 1.0)


@pytest.mark.parametrize("kind", [EXACT, SMOOTH])
@pytest.mark.parametrize("answer", ["last", "mean"])
def test_a_pool_counts_what_the_walk_does(kind, answer):
    """Every point of the merged frontier, whatever tiers it switches off."""
    made = records(n=250, n_tiers=4, tables=TABLES, seed=3)
    scored = Scored(made, with_labels=True)
    reading = plain(4)
    if answer == "mean":
        reading = type(reading)(scores=reading.scores, answer="mean")
    view = View(scored=scored, reading=reading, rows=np.arange(250))
    pool = Search(kind, tuple(subsets(4))).pool(view, costs_of(made, 8.0))
    for i in range(0, len(pool), 3):
        right, cost = walked(made, pool.gates[i], 8.0, answer)
        assert right == pool.right[i]
        assert cost == pytest.approx(pool.cost_ms[i], rel=1e-12)
    assert (np.diff(pool.cost_ms) > 0).all()


def test_a_tier_that_only_costs_is_switched_off():
    """A middle expert as weak as the first and as dear as the last is in no point."""
    made = records(n=600, n_tiers=3, tables=[{1: 1.0}, {1: 19.0}, {1: 20.0}], seed=1)
    made.tiers[1].logits[:] = np.random.default_rng(5).normal(size=made.tiers[1].logits.shape)
    scored = Scored(made, with_labels=True)
    view = View(scored=scored, reading=plain(3), rows=np.arange(600))
    pool = Search(EXACT, tuple(subsets(3))).pool(view, costs_of(made))
    assert all(gates[1].off for gates in pool.gates)


def test_the_worst_case_bounds_the_sum_of_tiers():
    """A bound on a row's longest way leaves only sub-cascades within it."""
    made = records(n=300, n_tiers=3)
    view = View(scored=Scored(made, with_labels=True), reading=plain(3), rows=np.arange(300))
    pool = Search(EXACT, tuple(subsets(3))).pool(view, costs_of(made), 21.0)
    for gates in pool.gates:
        assert sum(c for c, g in zip([1, 4, 20], gates, strict=True) if not g.off) <= 21
