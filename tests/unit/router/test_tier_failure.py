"""Tiers that fail, hang and come back, by a clock of its own: who is answered what, and how often.

No thread runs here: a test calls ``begin``, ``finish`` and ``look`` in an order it draws.
"""

import json

import numpy as np
import oracle
import pytest
from escalation_world import N_TIERS, TIMEOUT_S, World, check_against_oracle, make_policy
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_router import Gate, TierError
from cascade_router.errors import BusyError, DeadError
from cascade_router.walk import CUT_SHORT, ON_TIER_FAILURE, TIER_FAILED

GATES = st.lists(
    st.builds(
        Gate,
        threshold=st.sampled_from([0.6, 0.8, 2.0, 0.4]),
        off=st.sampled_from([False] * 3 + [True]),
    ),
    min_size=N_TIERS - 1,
    max_size=N_TIERS - 1,
)
# Most rows may go everywhere and most tiers work: what is drawn should meet a failure on its way.
BOUNDS = st.sampled_from([[0, 2], [0, 2], [0, 2], [0, 1], [1, 2], [1, 1], [2, 2]])
BROKEN = st.sampled_from([(1,), (2,), (1, 2), (0,), (0, 1), (0, 2), (0, 1, 2), ()])


@settings(max_examples=200)
@given(
    gates=GATES,
    mean=st.booleans(),
    how=st.sampled_from(ON_TIER_FAILURE),
    broken=BROKEN,
    hang=st.booleans(),
    arrivals=st.lists(st.tuples(st.integers(1, 4), BOUNDS), min_size=4, max_size=8),
    order=st.lists(st.integers(0, 10_000), min_size=5, max_size=40),
    seed=st.integers(0, 99),
)
def test_each_row_gets_what_the_policy_says_of_broken_tiers(
    gates, mean, how, broken, hang, arrivals, order, seed
):
    """Whatever the order of calls and arrivals: the dull cascade's answer, or its refusal."""
    world = World(make_policy([*gates, Gate()], "mean" if mean else "last"), how, seed=seed)
    left = list(arrivals)
    for number in order:
        if left and number % 2:
            n, (low, high) = left.pop()
            world.arrive(n, low, high)
        else:
            world.begin(number % N_TIERS)
        if world.under_way and number % 3:
            i = number % len(world.under_way)
            if world.under_way[i][0] not in broken:
                world.finish(i)
            elif not hang:
                world.finish(i, TierError("down"))
    for n, (low, high) in left:
        world.arrive(n, low, high)
    world.settle(broken, hang=hang)

    check_against_oracle(world, how, broken)


ACTIONS = st.one_of(
    st.tuples(
        st.just("arrive"),
        st.integers(1, 4),
        BOUNDS,
        st.one_of(st.none(), st.floats(0.001, 15.0)),
    ),
    st.tuples(st.just("begin"), st.integers(0, 2)),
    st.tuples(st.just("finish"), st.integers(0, 99)),
    st.tuples(st.just("fail"), st.integers(0, 99)),
    st.tuples(st.just("busy"), st.integers(0, 99)),
    st.tuples(st.just("time"), st.sampled_from([0.01, 0.3, 0.6, 4.0, 11.0])),
)


@settings(max_examples=400)
@given(
    how=st.sampled_from(ON_TIER_FAILURE),
    actions=st.lists(ACTIONS, min_size=5, max_size=60),
    max_waiting=st.sampled_from([3, 10_000]),
    seed=st.integers(0, 9),
)
def test_every_row_is_reported_exactly_once(how, actions, max_waiting, seed):
    """Deadlines, failures, hangs, late answers and full queues in any order.

    What is answered is what the tiers that ran for that row say, and a row that says it is not
    degraded has its full cascade's answer.
    """
    world = World(how=how, max_waiting=max_waiting, seed=seed)
    for action, *given_ in actions:
        if action == "arrive":
            n, (low, high), seconds = given_
            world.arrive(n, low, high, None if seconds is None else world.now + seconds)
        elif action == "begin":
            world.begin(given_[0])
        elif action == "time":
            world.pass_time(given_[0])
        elif world.under_way:
            error = {"finish": None, "fail": TierError("down"), "busy": BusyError("full")}[action]
            world.finish(given_[0] % len(world.under_way), error)
    world.settle()
    for _ in range(3):  # rows that were let in for a trial
        world.pass_time(100.0)
        world.settle()

    policy = json.loads(world.policy.to_json())
    for walk, seen, numbers in world.walks:
        for row, number in enumerate(numbers.tolist()):
            (error,) = seen.told[row]
            ran = seen.ran_tiers[row]
            assert sorted(set(ran)) == ran
            if error is not None:
                assert isinstance(error, BusyError | TierError)
                assert world.health.failures or isinstance(error, BusyError)
                continue
            low, high = int(walk._min_tier[row]), int(walk._max_tier[row])
            assert walk.exit_tier[row] == ran[-1]
            assert low <= ran[0]
            assert ran[-1] <= high
            assert walk.label[row] == world.logits[ran[-1], number].argmax()
            if walk.degraded[row] == 0:
                full = oracle.answer(policy, world.logits[:, number], None, low, high)
                assert (walk.exit_tier[row], walk.label[row]) == full[:2]
            elif walk.degraded[row] == TIER_FAILED:
                assert world.health.failures
                assert how != "fail"
            else:
                assert walk.degraded[row] == CUT_SHORT


def test_a_tier_that_failed_is_left_alone_and_taken_back():
    """Rows go by at once, one call tries it after half a second; then it serves as before."""
    world = World()
    world.arrive(low=1)
    world.begin(1)
    world.finish(0, TierError("down"))
    assert world.health.open == {1}

    world.arrive(low=1)
    assert world.begin(1) is None  # it waits at tier 2
    world.pass_time(0.6)
    world.arrive(low=1)
    assert world.begin(1) is not None
    world.arrive(low=1, high=1)
    (error,) = world.walks[-1][1].told[0]
    assert str(error).startswith("down (left alone")
    world.finish(0)

    assert world.health.open == set()
    assert world.health.failures == [(1, "error")]
    assert world.walks[2][0].degraded.tolist() == [0]
    world.settle()
    assert [walk.degraded.tolist() for walk, _, _ in world.walks[:2]] == [[TIER_FAILED]] * 2


@pytest.mark.parametrize(
    ("error", "wanted"),
    [(TierError("down"), [0.5, 1, 2, 4, 8, 16, 30, 30]), (DeadError("gone"), [0.5, 1, 2, 2, 2, 2])],
)
def test_the_interval_grows_while_trials_fail(error, wanted):
    """Half a second, one, two, ... to half a minute; to two seconds where the tier is down."""
    world = World()
    moments = []
    for _ in range(10_000):
        world.arrive(low=1, high=1)
        if world.begin(1) is not None:
            moments.append(world.now)
            world.finish(0, error)
        world.now += 0.01

    np.testing.assert_allclose(np.diff(moments)[: len(wanted)], wanted, atol=0.02)


def test_a_hanging_call_lets_its_rows_go_and_its_late_answer_is_dropped():
    """At the timeout they go up; what the tier says afterwards changes nothing."""
    world = World()
    walk, seen = world.arrive(low=1)
    world.begin(1)

    world.pass_time(TIMEOUT_S - 0.01)
    assert seen.told == [[]]
    world.pass_time(0.01)
    world.begin(2)
    world.finish(1)
    assert (seen.told, walk.exit_tier.tolist()) == ([[None]], [2])
    world.finish(0)

    assert (seen.told, walk.exit_tier.tolist()) == ([[None]], [2])
    assert walk.degraded.tolist() == [TIER_FAILED]
    assert world.health.failures == [(1, "timeout")]


def test_a_tier_that_is_slow_with_every_call_is_not_taken_for_hanging():
    """A flood makes all calls late; up to thrice the timeout they are waited for."""
    world = World(workers=2)
    slow, _ = world.arrive(low=1, high=1)
    world.begin(1)
    world.now += 0.9 * TIMEOUT_S
    world.finish(0)
    walk, seen = world.arrive(low=1, high=1)
    world.begin(1)

    world.pass_time(2.6 * TIMEOUT_S)
    assert (seen.told, world.health.failures) == ([[]], [])
    world.finish(0)

    assert (seen.told, walk.exit_tier.tolist()) == ([[None]], [1])
    assert slow.degraded.tolist() == walk.degraded.tolist() == [0]

    world.arrive(low=1, high=1)
    world.begin(1)
    world.pass_time(3 * TIMEOUT_S)
    assert world.health.failures == [(1, "timeout")]  # however slow the others are


def test_rows_of_one_batch_may_wait_where_none_does():
    """However low the bound is: otherwise they could never run; more are refused."""
    world = World(max_waiting=1)
    batch, more = world.arrive(n=3, low=1, high=1)[1], world.arrive(low=1, high=1)[1]

    world.begin(1)
    world.finish(0)

    assert batch.told == [[None]] * 3
    assert "queue full" in str(more.told[0][0])


def test_no_row_waits_for_a_tier_whose_workers_all_hang():
    """Not even for the trial: nobody could make it, until one of the calls comes back."""
    world = World(workers=2)
    for _ in range(2):
        world.arrive(low=1, high=1)
        world.begin(1)
    world.arrive(low=1, high=1)
    world.pass_time(TIMEOUT_S)
    assert all(len(seen.told[0]) == 1 for _, seen, _ in world.walks)

    world.pass_time(60.0)
    _, seen = world.arrive(low=1, high=1)
    assert "no answer within 10000 ms" in str(seen.told[0][0])
    world.finish(0)
    walk, seen = world.arrive(low=1, high=1)
    assert world.begin(1) is not None
    world.finish(1)

    assert (seen.told, walk.exit_tier.tolist()) == ([[None]], [1])
    assert world.health.open == set()


def test_a_deadline_is_kept_while_a_tier_hangs():
    """The row with an answer is answered by it, the other is refused; neither runs a tier again."""
    world = World(make_policy([Gate(threshold=2.0), Gate(threshold=2.0), Gate()]))
    climbing, first = world.arrive(until=3.0)
    world.begin(0)
    world.finish(0)
    _, second = world.arrive(low=1, until=3.0)
    patient, third = world.arrive(low=1)
    world.begin(1)

    world.pass_time(2.9)
    assert first.told == second.told == [[]]
    world.pass_time(0.2)

    assert (first.told, climbing.exit_tier.tolist()) == ([[None]], [0])
    assert climbing.degraded.tolist() == [CUT_SHORT]
    assert isinstance(second.told[0][0], BusyError)
    assert "cascade_deadline_ms: over before tier 1 had answered" in str(second.told[0][0])
    assert third.told == [[]]
    world.finish(0)
    assert patient.tier.tolist() == [2]
    assert climbing.exit_tier.tolist() == [0]


def test_a_deadline_is_kept_in_a_queue():
    """No worker is free: the row is taken out of the queue, its neighbour stays."""
    world = World(workers=1)
    world.arrive(low=1)
    world.begin(1)
    _, hurried = world.arrive(low=1, until=1.0)
    neighbour, waiting = world.arrive(low=1)

    world.pass_time(1.0)

    assert isinstance(hurried.told[0][0], BusyError)
    assert waiting.told == [[]]
    world.settle()
    assert waiting.told == [[None]]
    assert neighbour.degraded.tolist() == [0]


def test_look_says_when_to_look_again():
    """At the next deadline, or when the call under way has taken too long; else never."""
    world = World()
    assert world.escalation.look() == np.inf
    world.arrive(low=1)
    world.begin(1)
    assert world.escalation.look() == TIMEOUT_S
    world.arrive(low=1, until=4.0)
    assert world.escalation.look() == 4.0


def test_a_full_queue_of_the_tier_itself_is_no_failure():
    """Its rows are refused, and the tier is not left alone."""
    world = World()
    _, seen = world.arrive(low=1)
    world.begin(1)
    world.finish(0, BusyError("Exceeds maximum queue size"))

    assert isinstance(seen.told[0][0], BusyError)
    assert (world.health.failures, world.health.open) == ([], set())


@pytest.mark.parametrize("how", ON_TIER_FAILURE)
def test_a_tier_that_is_too_slow_and_one_that_is_down_let_a_row_down_once(how):
    """The row is refused in the end; it does not go round in circles between them."""
    world = World(how=how)
    for low in (0, 1):
        world.arrive(low=low, high=low)
        world.begin(low)
        world.finish(0, TierError("down"))
    world.escalation._pace.took(2, 1, 5.0)

    walk, seen = world.arrive(until=world.now + 1.0)

    assert len(seen.told[0]) == 1
    assert seen.told[0][0] is not None
    assert walk.decided.all()
