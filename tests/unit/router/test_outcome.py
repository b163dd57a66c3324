"""Who is to blame for a call that failed: the tier, or some of its rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_router import RequestError, TierError
from cascade_router.errors import BusyError, DeadError
from cascade_router.outcome import outcome_of


class Tier:
    """Logits are the rows; rows of ``bad`` fail any call they are in."""

    def __init__(self, bad=(), errors=()):
        self.bad, self.errors, self.sizes = set(bad), list(errors), []

    def __call__(self, rows):
        self.sizes.append(len(rows))
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        if self.bad & set(rows[:, 0].tolist()):
            message = "index out of range"
            raise TierError(message)
        return rows


def rows(n):
    return np.repeat(np.arange(1, n + 1, dtype=np.float32)[:, None], 2, axis=1)


@given(n=st.integers(1, 12), bad=st.sets(st.integers(1, 12)))
def test_bad_rows_are_found_and_the_others_answered(n, bad):
    """Whichever and however many they are."""
    tier = Tier(bad)

    outcome = outcome_of(tier, rows(n), 2)

    mine = np.isin(np.arange(1, n + 1), list(bad))
    if not mine.any():
        assert (outcome.error, tier.sizes) == (None, [n])
        return
    assert isinstance(outcome.error, RequestError)
    assert not outcome.tier_failed
    np.testing.assert_array_equal(outcome.failed, mine)
    np.testing.assert_array_equal(outcome.logits[~mine], rows(n)[~mine])


def test_a_tier_that_runs_no_zeros_has_failed():
    """Two calls say so; its rows are not tried one by one."""
    tier = Tier(errors=[TierError("on fire"), TierError("on fire")])

    outcome = outcome_of(tier, rows(4), 2)

    assert outcome.tier_failed
    assert (outcome.logits, str(outcome.error), tier.sizes) == (None, "on fire", [4, 1])


def test_what_fails_once_is_answered():
    """Batches that are too large for a moment's memory, say."""
    outcome = outcome_of(Tier(errors=[TierError("out of memory")]), rows(4), 2)

    assert outcome.error is None
    np.testing.assert_array_equal(outcome.logits, rows(4))


@pytest.mark.parametrize(("times", "fails"), [(1, False), (2, True)])
def test_a_dead_instance_is_asked_once_more(times, fails):
    """Another one may answer; no row is blamed and no zeros are sent."""
    tier = Tier(errors=[DeadError("is not healthy")] * times)

    outcome = outcome_of(tier, rows(3), 2)

    assert tier.sizes == [3, 3]
    assert outcome.tier_failed == fails


def test_a_tier_that_dies_while_rows_are_told_apart_has_failed():
    """What was answered stays, the rest is the tier's fault."""
    wrong, dead = TierError("wrong"), [DeadError("is not ready")] * 2
    tier = Tier(errors=[wrong, None, wrong, None, *dead, *dead, *dead])

    outcome = outcome_of(tier, rows(4), 2)

    assert isinstance(outcome.error, DeadError)
    assert outcome.failed.tolist() == [False, False, True, True]


def test_a_full_queue_is_nobody_s_fault():
    """It is not asked again."""
    tier = Tier(errors=[BusyError("full")])

    outcome = outcome_of(tier, rows(2), 2)

    assert (outcome.tier_failed, tier.sizes) == (False, [2])
    assert isinstance(outcome.error, BusyError)


def test_a_full_queue_is_not_asked_row_by_row():
    """Rows that were to be told apart meanwhile are refused; smaller calls would fill it more."""
    tier = Tier(errors=[TierError("a bad row"), None, *[BusyError("full")] * 9])

    outcome = outcome_of(tier, rows(8), 2)

    assert isinstance(outcome.error, BusyError)
    assert outcome.failed is not None
    assert outcome.failed.all()
    assert tier.sizes == [8, 1, 8]


def test_logits_of_another_shape_are_a_failure():
    """As is a fault of ours, which the log shows and the client does not."""
    outcome = outcome_of(lambda given: np.zeros((len(given), 3)), rows(2), 2)

    assert outcome.tier_failed
    assert "logits: got shape (2, 3), expected (2, 2)" in str(outcome.error)


def test_a_fault_of_ours_is_told_to_the_log(caplog):
    """With its traceback; the client gets a sentence."""
    outcome = outcome_of(lambda given: 1 / 0, rows(2), 2)

    assert str(outcome.error) == "fault in the router, see the server's log"
    assert "ZeroDivisionError" in caplog.text
