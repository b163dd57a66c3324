"""When a tier is used, left alone and tried."""

import numpy as np
from escalation_world import PLAIN, Seen
from hypothesis import given
from hypothesis import strategies as st

from cascade_router import TierError, Walk
from cascade_router.breaker import FIRST_S, MOST_S, Breaker
from cascade_router.group import Group
from cascade_router.line import Line
from cascade_router.outcome import Outcome


def opened(now_s=0.0):
    breaker = Breaker()
    breaker.failed(now_s, now_s, trial=False)
    return breaker


def test_one_trial_at_a_time_and_only_when_the_interval_is_over():
    """While it is under way nothing else begins."""
    breaker = opened()

    assert breaker.shut(FIRST_S - 0.01)
    assert not breaker.shut(FIRST_S)
    breaker.try_it()
    assert breaker.shut(FIRST_S + 100)


def test_a_trial_that_succeeds_closes_it():
    """The next failure starts with the first interval again."""
    breaker = opened()
    for now_s in (1.0, 3.0, 9.0):
        breaker.try_it()
        breaker.failed(now_s, now_s, trial=True)
    breaker.try_it()
    breaker.succeeded(20.0)

    assert not breaker.open
    breaker.failed(30.0, 29.0, trial=False)
    assert not breaker.shut(30.0 + FIRST_S)


@given(st.lists(st.floats(0, 100), max_size=20))
def test_what_began_before_it_opened_or_closed_says_nothing_new(began):
    """Calls that fail together count once, and old ones do not open it again."""
    breaker = opened(100.0)
    for one in began:
        breaker.failed(100.0 + one, one, trial=False)
    assert not breaker.shut(100.0 + FIRST_S)

    breaker.try_it()
    breaker.succeeded(200.0)
    for one in began:
        breaker.failed(300.0, one, trial=False)
    assert not breaker.open


def test_the_interval_is_bounded():
    """However long the tier is down."""
    breaker = opened()
    for k in range(50):
        breaker.try_it()
        breaker.failed(1000.0 * k, 1000.0 * k, trial=True)

    assert breaker.shut(49_000.0 + MOST_S - 0.01)
    assert not breaker.shut(49_000.0 + MOST_S)


def test_a_trial_that_said_nothing_is_made_again():
    """At once; but one that is under way stays the only one."""
    breaker = opened()
    breaker.try_it()
    breaker.retry(trial=True)
    assert not breaker.shut(0.0)

    breaker.try_it()
    breaker.retry(trial=False)
    assert breaker.shut(0.0)


def test_a_call_that_is_started_while_a_trial_succeeds_counts_as_later():
    """Its caller read the clock before; if it hangs, nobody may wait behind it for ever."""
    line = Line(0, max_batch=4, max_waiting=8, workers=1, timeout_s=1.0, health=None)

    def lent(now_s):
        walk = Walk(PLAIN, point=np.zeros(1, dtype=int))
        call = line.lend(Group(walk, np.arange(1), np.zeros((1, 1)), Seen(1)), now_s)
        assert line.take(wait=False) is call
        return call

    line.end(lent(0.0), Outcome(None, TierError("down")), 0.1)
    line.end(lent(1.0), Outcome(np.zeros((1, 3))), 1.2)
    assert not line.open
    hung = lent(1.1)
    assert line.leave(hung) is None

    assert [len(group.rows) for group in line.pull_stuck(2.5)] == [1]
    assert line.shut(2.5)
