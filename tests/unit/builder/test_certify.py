"""Bounds against published figures, dull sums and the promises they stand for."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_builder.certify import (
    BETTING,
    BINOMIAL,
    betting_bound,
    betting_p,
    binomial_bound,
    binomial_p,
    bound,
    fixed_sequence,
    rows_needed,
)


@pytest.mark.parametrize(
    ("drop", "rows", "most"),
    [
        (0.005, 1000, 1),
        (0.005, 10_000, 38),
        (0.01, 500, 1),
        (0.01, 2000, 12),
        (0.01, 50_000, 463),
        (0.02, 500, 4),
        (0.02, 10_000, 176),
    ],
)
def test_the_largest_count_that_certifies(drop, rows, most):
    """One more loss and the promise fails, at level 0.95."""
    assert binomial_p(most, rows, drop) <= 0.05 < binomial_p(most + 1, rows, drop)


def test_the_binomial_p_value_is_the_sum_of_its_terms():
    """As a schoolbook would add them up."""
    terms = [math.comb(40, i) * 0.1**i * 0.9 ** (40 - i) for i in range(3)]
    assert binomial_p(2, 40, 0.1) == pytest.approx(sum(terms))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.001, 0.3))
def test_bound_and_p_value_say_the_same(losses, rows, delta):
    """A drop is certified just when it is at least the Clopper-Pearson bound."""
    losses = min(losses, rows)
    least = binomial_bound(losses, rows, delta)
    if least < 1:
        assert binomial_p(losses, rows, least + 1e-6) <= delta
    assert binomial_p(losses, rows, least - 1e-6) > delta


def dull_capital(losses, drop, delta):
    """Bet row by row in plain Python."""
    x = [(loss + 1) / 2 for loss in losses]
    m, capital, best = (drop + 1) / 2, 1.0, 1.0
    variance = 0.25
    for i, value in enumerate(x):
        bet = math.sqrt(2 * math.log(1 / delta) / (len(x) * variance))
        bet = min(bet, 0.75 / (1 - m))
        capital *= 1 - bet * (value - m)
        best = max(best, capital)
        mean = [(0.5 + sum(x[: j + 1])) / (2 + j) for j in range(i + 1)]
        squares = sum((x[j] - mean[j]) ** 2 for j in range(i + 1))
        variance = (0.25 + squares) / (2 + i)
    return 1 / best


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-1, 0, 0, 0, 1]), min_size=1, max_size=40),
    st.floats(-0.2, 0.6),
    st.floats(0.01, 0.3),
)
def test_betting_is_what_a_dull_gambler_wins(losses, drop, delta):
    """Each bet knows the rows before it, never its own."""
    expected = dull_capital(losses, drop, delta)
    assert betting_p(np.array(losses), drop, delta) == pytest.approx(expected, rel=1e-9)


def test_betting_gains_where_wins_make_up_for_losses():
    """Figures of the methods page: 10,000 rows, 1.0 % lost, 0.8 % won: about half a point."""
    rng = np.random.default_rng(0)
    losses = rng.choice([1, -1, 0], p=[0.010, 0.008, 0.982], size=(40, 10_000))
    betting = np.mean([betting_bound(row, 0.05) for row in losses])
    binomial = np.mean([bound(row, 0.05, BINOMIAL) for row in losses])
    assert betting == pytest.approx(0.0048, abs=0.0006)
    assert binomial == pytest.approx(0.0118, abs=0.0006)


def test_the_bound_is_the_least_drop_that_is_certified():
    """A little less is not."""
    losses = np.random.default_rng(1).choice([1, 0, -1], p=[0.02, 0.97, 0.01], size=3000)
    least = betting_bound(losses, 0.05)
    assert betting_p(losses, least, 0.05) <= 0.05 < betting_p(losses, least - 3e-5, 0.05)


def test_the_failed_candidate_is_not_certified():
    """The sequence ends before the first failure, whatever follows it."""
    assert fixed_sequence([0.01, 0.02, 0.051, 0.001], 0.05) == 2
    assert fixed_sequence([0.2, 0.001], 0.05) == 0
    assert fixed_sequence([0.01, 0.05], 0.05) == 2
    assert fixed_sequence([], 0.05) == 0
    assert fixed_sequence([float("nan")], 0.05) == 0


@pytest.mark.parametrize("method", [BINOMIAL, BETTING])
def test_no_row_promises_nothing(method):
    """Without check rows the bound is that everything may be lost."""
    assert bound(np.zeros(0, dtype=np.int64), 0.05, method) == 1.0


@pytest.mark.parametrize("method", [BINOMIAL, BETTING])
def test_rows_needed_are_never_fewer_than_there_were(method):
    """Where an unlucky draw failed, as many rows again are asked for at the least."""
    losses = np.repeat([1, 0], [2, 998])

    assert rows_needed(losses, 0.02, 0.05, method, had=5000) == 10_000


def test_rows_for_a_hopeless_wish_are_counted_without_trying_them():
    """Millions of rows are an estimate in the limit, not millions of bets."""
    losses = np.repeat([1, -1, 0], [100, 100, 9800])

    need = rows_needed(losses, 0.0002, 0.05, BETTING)

    assert 1_000_000 < need < 20_000_000


@pytest.mark.parametrize("method", [BINOMIAL, BETTING])
def test_rows_needed_are_about_enough_and_not_many_more(method):
    """So many rows of the same kind mostly certify; a third of them mostly do not."""
    rng = np.random.default_rng(2)
    losses = rng.permutation(np.repeat([1, 0], [4, 996]))
    need = rows_needed(losses, 0.006, 0.05, method)

    def share(n):
        drawn = rng.random((40, n)) < 0.004
        return np.mean([bound(row.astype(np.int64), 0.05, method) <= 0.006 for row in drawn])

    assert share(2 * need) > 0.6
    assert share(need // 3) < 0.5


def test_no_number_of_rows_certifies_what_is_not_so():
    """Losses above the promise stay above it."""
    assert rows_needed(np.repeat([1, 0], [20, 980]), 0.01, 0.05, BINOMIAL) is None
