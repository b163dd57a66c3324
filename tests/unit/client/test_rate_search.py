"""The highest rate that meets a target."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_client.rate_search import CHECKS, highest_rate, most_steps


@given(
    edge=st.floats(1, 1000),
    span=st.floats(1.5, 100),
    tolerance=st.floats(0.01, 1),
)
def test_the_edge_is_found_within_the_tolerance(edge, span, tolerance):
    """From below, and in no more measurements than were announced."""
    low, high = edge / span, edge * span
    asked = []

    def meets(rate):
        asked.append(rate)
        return rate <= edge

    found = highest_rate(meets, meets, low, high, tolerance)

    # Three digits are as near as it comes, whatever the tolerance.
    assert edge / (1 + tolerance + 0.02) <= found <= edge
    assert len(asked) <= most_steps(low, high, tolerance)


def test_nothing_holds_where_the_lowest_misses():
    """One measurement shows it."""
    asked = []
    assert highest_rate(asked.append, asked.append, 2, 100, 0.05) is None
    assert asked == [2]


def test_the_highest_is_taken_where_it_meets():
    """Two measurements and its check."""
    asked = []

    def meets(rate):
        asked.append(rate)
        return True

    assert highest_rate(meets, meets, 2, 100, 0.05) == 100
    assert asked == [2, 100, 100]


@pytest.mark.parametrize(("steps_down", "found"), [(0, True), (CHECKS - 1, True), (CHECKS, False)])
def test_a_lucky_rate_is_given_up_for_a_lower_one(steps_down, found):
    """By the tolerance each time, a few times; then nothing is promised."""
    checked = []

    def holds(rate):
        checked.append(rate)
        return len(checked) > steps_down

    rate = highest_rate(lambda rate: rate <= 40, holds, 1, 100, 0.1)

    assert (rate is not None) == found
    ratios = [a / b for a, b in itertools.pairwise(checked)]
    assert all(math.isclose(ratio, 1.1, rel_tol=0.01) for ratio in ratios)


def test_the_check_never_goes_below_the_lowest():
    """Where the lowest itself does not hold, nothing does."""
    checked = []
    rate = highest_rate(lambda rate: rate <= 1, checked.append, 1, 1.2, 0.05)

    assert rate is None
    assert checked == [1]
