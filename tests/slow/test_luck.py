"""What a search loses on fresh rows beyond what it lost on the rows it chose on."""

import numpy as np
import pytest
from synthetic import costs_of, records

from cascade_builder.frontier import subsets
from cascade_builder.pool import EXACT, SMOOTH, Search
from cascade_builder.replay import View, replay
from cascade_builder.scored import Scored
from cascade_builder.selection import optimism, plain

pytestmark = pytest.mark.slow

ALL = tuple(subsets(3))


def view_of(made, n):
    return View(scored=Scored(made, with_labels=True), reading=plain(3), rows=np.arange(n))


def test_less_is_lost_on_fresh_rows_than_with_the_grid():
    """Six hundred rows, twenty draws: the grid's luck is worth more than the path's."""
    lucks = {EXACT: [], SMOOTH: []}
    for seed in range(20):
        made = records(n=20_600, n_tiers=3, seed=seed)
        view, costs = view_of(made, 600), costs_of(made)
        rest = view.at(np.arange(600, 20_600))
        for kind, luck in lucks.items():
            pool = Search(kind, ALL).pool(view, costs)
            at = pool.cheapest(0.005)
            lost = rest.reference.mean() - replay(rest, pool.gates[at], costs).right.mean()
            luck.append(lost - pool.drop[at])
    assert np.mean(lucks[SMOOTH]) < 0.75 * np.mean(lucks[EXACT])


def test_luck_is_measured_on_the_rows_at_hand():
    """The cross-validated estimate is near what fresh rows show, mean of twenty draws."""
    claimed, true = [], []
    for seed in range(20):
        made = records(n=20_600, n_tiers=3, seed=seed)
        view, costs = view_of(made, 600), costs_of(made)
        rest = view.at(np.arange(600, 20_600))
        claimed.append(optimism(view, costs, 0.005, seed, Search(EXACT, ALL)))
        pool = Search(EXACT, ALL).pool(view, costs)
        at = pool.cheapest(0.005)
        lost = rest.reference.mean() - replay(rest, pool.gates[at], costs).right.mean()
        true.append(lost - pool.drop[at])
    assert np.mean(claimed) == pytest.approx(np.mean(true), abs=0.003)
