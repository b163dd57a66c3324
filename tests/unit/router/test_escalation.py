"""Queues and workers of the tiers, driven by fakes: merging, splitting, bounds, faults."""

import dataclasses
import queue
import threading
import time
from collections import Counter

import numpy as np
import pytest

from cascade_router import (
    DECIDED,
    Gate,
    OperatingPoint,
    Policy,
    RequestError,
    Tier,
    TierError,
    Walk,
)
from cascade_router.errors import BusyError, DeadError
from cascade_router.escalation import Escalation
from cascade_router.group import Group
from cascade_router.pace import Pace

POLICY = Policy(
    cascade="c",
    activation="softmax",
    n_classes=2,
    tiers=tuple(Tier(name=n, model=n, digest="d") for n in "abc"),
    points=(OperatingPoint(name="p", gates=(Gate(threshold=2.0), Gate(threshold=0.9), Gate())),),
    default="p",
)


class Tiers:
    """Logits are the inputs; ``hold`` keeps calls waiting so that rows pile up behind them."""

    def __init__(self):
        self.calls = queue.Queue()
        self.hold = threading.Event()
        self.hold.set()
        self.down, self.dead = False, 0

    def __call__(self, tier, rows):
        self.calls.put((tier, len(rows)))
        assert self.hold.wait(10)
        if self.dead:
            self.dead -= 1
            raise DeadError("is not healthy")
        if self.down or np.isnan(rows).any():
            raise TierError("down")
        if np.isinf(rows).any():
            raise ZeroDivisionError
        return rows


class Reports(queue.Queue):
    """What an observer was told: (rows, error) each."""

    def report(self, rows, error):
        self.put((rows, error))

    def ran(self, tier, rows, scores):
        assert rows.shape == scores.shape


@pytest.fixture
def tiers():
    return Tiers()


def started(tiers, *, costs=({}, {}, {}), clock=lambda: 0.0, **bounds):
    measured = [dataclasses.replace(t, cost_ms=c) for t, c in zip(POLICY.tiers, costs, strict=True)]
    bounds = {"max_batch": 4, "max_waiting": 8, "workers": 1} | bounds
    pace = Pace(measured, 1, clock)
    made = Escalation(tiers, pace, n_tiers=3, clock=clock, **bounds)
    made.start()
    return made


@pytest.fixture
def escalation(tiers):
    made = started(tiers)
    yield made
    tiers.hold.set()
    made.close()


def group(logits, reports, min_tier=1, until=None):
    logits = np.asarray(logits, dtype=np.float32)
    walk = Walk(POLICY, point=np.zeros(len(logits), dtype=int), min_tier=min_tier)
    until = None if until is None else np.asarray(until, dtype=float)
    return Group(walk, np.arange(len(logits)), logits, reports, until)


SURE, UNSURE = [9.0, 0.0], [0.1, 0.0]


def test_decided_rows_are_reported_before_rows_that_climb(escalation, tiers):
    """A row that tier 1 decides is reported while its batch mate still runs tier 2."""
    reports = Reports()
    climbing = group([SURE, UNSURE], reports)

    escalation.send(climbing)

    assert tiers.calls.get(timeout=5) == (1, 2)
    first, error = reports.get(timeout=5)
    assert (first.tolist(), error) == ([0], None)
    assert tiers.calls.get(timeout=5) == (2, 1)
    assert reports.get(timeout=5)[0].tolist() == [1]
    assert climbing.walk.exit_tier.tolist() == [1, 2]


def test_survivors_of_several_batches_merge(escalation, tiers):
    """Rows that wait for one tier run together, up to the largest batch, in the order they came."""
    reports = Reports()
    tiers.hold.clear()
    escalation.send(group([SURE], reports))
    assert tiers.calls.get(timeout=5) == (1, 1)  # in the call, so what follows waits

    batches = [group([SURE] * n, reports) for n in (1, 2, 3)]
    for one in batches:
        escalation.send(one)
    tiers.hold.set()

    assert tiers.calls.get(timeout=5) == (1, 4)  # 1 + 2 + 1 of 3: split at the largest batch
    assert tiers.calls.get(timeout=5) == (1, 2)
    sizes = [len(reports.get(timeout=5)[0]) for _ in range(5)]
    assert sorted(sizes) == [1, 1, 1, 2, 2]
    assert all((one.walk.exit_tier == 1).all() for one in batches)


def test_a_full_queue_refuses_at_once(escalation, tiers):
    """Rows beyond the bound are refused while those before them still wait."""
    reports = Reports()
    tiers.hold.clear()
    escalation.send(group([SURE], reports))
    tiers.calls.get(timeout=5)
    escalation.send(group([SURE] * 8, reports))

    escalation.send(group([SURE], reports))

    rows, error = reports.get(timeout=5)
    assert rows.tolist() == [0]
    assert isinstance(error, BusyError)
    assert "8 rows may wait" in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_a_tier_cannot_run_is_refused_alone(escalation, tiers, value):
    """Its batch mates are answered, the tier is not blamed; a fault of ours harms no other row."""
    reports = Reports()
    tiers.hold.clear()
    escalation.send(group([SURE], reports))
    tiers.calls.get(timeout=5)

    escalation.send(group([SURE, [value, 0], SURE], reports))
    tiers.hold.set()
    told = [reports.get(timeout=5) for _ in range(3)]
    escalation.send(group([SURE], reports))

    refused = [(rows, error) for rows, error in told if error is not None]
    ((rows, error),) = refused
    assert (rows.tolist(), type(error)) == ([1], RequestError)
    assert str(error).startswith("a row of this request cannot be run: ")
    assert sorted(len(rows) for rows, error in told if error is None) == [1, 2]
    assert reports.get(timeout=5)[1] is None


def test_a_tier_that_runs_no_row_fails_them_all(tiers):
    """Not even zeros: the rows learn why, where no tier is left."""
    reports = Reports()
    tiers.down = True
    escalation = started(tiers)

    escalation.send(group([SURE], reports, min_tier=2))
    rows, error = reports.get(timeout=5)
    escalation.close()

    assert (rows.tolist(), type(error), str(error)) == ([0], TierError, "down")


def test_one_of_two_instances_that_is_dead_costs_a_second_call(tiers):
    """An error that says so is no row's fault, and the other instance answers."""
    reports = Reports()
    tiers.dead = 1
    escalation = started(tiers)

    escalation.send(group([SURE], reports))
    rows, error = reports.get(timeout=5)
    tiers.dead = 2
    escalation.send(group([SURE], reports, min_tier=2))
    _, second = reports.get(timeout=5)
    escalation.close()

    assert (rows.tolist(), error) == ([0], None)
    assert isinstance(second, DeadError)


def test_a_lender_gets_its_rows_back(escalation, tiers):
    """A worker runs the tier, the caller settles and reports; nothing is left behind."""
    reports, left = Reports(), []
    lent = group([SURE, UNSURE], reports)

    (rest,) = escalation.lend(1, lent, lambda: left.append(1))

    assert rest.rows.tolist() == [0, 1]
    assert lent.walk.tier.tolist() == [DECIDED, 2]
    assert not left
    assert reports.empty()


def test_a_lender_does_not_wait_for_a_slow_call(tiers):
    """It says so before the rows are taken over, and they are answered when the tier is done."""
    reports, left = Reports(), []
    escalation = started(tiers, clock=time.monotonic, workers=2)
    tiers.hold.clear()

    assert escalation.lend(1, group([SURE], reports), lambda: left.append(reports.empty())) == []
    assert escalation.lend(1, group([SURE], reports), lambda: left.append(reports.empty())) == []
    assert escalation.lend(1, group([SURE], reports), lambda: left.append(reports.empty())) == []
    tiers.hold.set()
    told = [reports.get(timeout=5) for _ in range(3)]
    escalation.close()

    assert left == [True] * 3
    assert [error for _, error in told] == [None] * 3


def test_a_stuck_tier_holds_nobody(tiers):
    """With threads and the real clock: deadline, timeout, and an end that does not wait for it."""
    reports = Reports()
    escalation = started(tiers, clock=time.monotonic, timeout_s=0.3)
    tiers.hold.clear()
    now = time.monotonic()
    escalation.send(group([SURE, SURE], reports, until=[now + 0.1, np.inf]))
    waiting = group([SURE], reports)
    tiers.calls.get(timeout=5)
    escalation.send(waiting)

    first, error = reports.get(timeout=5)
    assert (first.tolist(), type(error)) == ([0], BusyError)
    assert tiers.calls.get(timeout=5)[0] == 2  # those that the timeout let go
    tiers.hold.set()
    told = [reports.get(timeout=5) for _ in range(2)]
    escalation.close()

    assert [error for _, error in told] == [None, None]
    assert waiting.walk.exit_tier.tolist() == [2]


def test_close_finishes_what_waits():
    """Closing answers every row that was taken in."""
    tiers, reports = Tiers(), Reports()
    escalation = started(tiers, max_waiting=99, workers=2)
    for _ in range(20):
        escalation.send(group([UNSURE, SURE], reports))

    escalation.close()

    assert sum(len(reports.get_nowait()[0]) for _ in range(reports.qsize())) == 40


def test_a_row_in_time_runs_the_tier_and_a_late_one_keeps_its_answer(tiers):
    """By measured cost tier 2 takes 50 ms: who has 60 ms runs it, who has 40 ms is answered now."""
    reports = Reports()
    escalation = started(tiers, costs=({}, {}, {1: 50.0}))
    climbing = group([UNSURE, UNSURE], reports, until=[0.040, 0.120])

    escalation.send(climbing)
    first, error = reports.get(timeout=5)
    second = reports.get(timeout=5)[0]
    escalation.close()

    assert (first.tolist(), error, second.tolist()) == ([0], None, [1])
    assert climbing.walk.exit_tier.tolist() == [1, 2]


def test_what_waits_counts_against_a_deadline(tiers):
    """Tier 1 takes 10 ms a row and 6 rows wait: 65 ms are too few for a row behind them."""
    reports = Reports()
    tiers.hold.clear()
    escalation = started(tiers, costs=({}, {1: 10.0}, {}))
    escalation.send(group([SURE], reports))
    tiers.calls.get(timeout=5)
    escalation.send(group([SURE] * 6, reports))
    late = group([SURE], reports, until=[0.065])

    escalation.send(late)
    rows, error = reports.get(timeout=5)
    tiers.hold.set()
    escalation.close()

    assert rows.tolist() == [0]
    assert "cascade_deadline_ms: tier 1 is expected to take 70 ms" in str(error)
    assert late.walk.decided.all()


def test_a_row_without_answer_starts_at_a_lower_tier_that_is_in_time(tiers):
    """Its point begins at tier 1, which is too slow; tier 0 is allowed and quick."""
    reports = Reports()
    escalation = started(tiers, costs=({1: 1.0}, {1: 50.0}, {1: 500.0}))
    hurried = group([UNSURE], reports, min_tier=0, until=[0.020])
    hurried.walk.tier[:] = 1

    escalation.send(hurried)
    rows, error = reports.get(timeout=5)
    escalation.close()

    assert (rows.tolist(), error) == ([0], None)
    assert hurried.walk.exit_tier.tolist() == [0]
    assert [tiers.calls.get_nowait() for _ in range(tiers.calls.qsize())] == [(0, 1)]


def test_time_that_passes_in_the_queue_counts(tiers):
    """A row that was in time when it was queued is let go when its turn comes too late."""
    reports, now = Reports(), [0.0]
    tiers.hold.clear()
    escalation = started(tiers, costs=({}, {1: 10.0}, {}), clock=lambda: now[0])
    escalation.send(group([SURE], reports))
    tiers.calls.get(timeout=5)
    waiting = group([SURE], reports, until=[0.030])
    escalation.send(waiting)

    now[0] = 0.025
    tiers.hold.set()
    told = [reports.get(timeout=5) for _ in range(2)]
    escalation.close()

    assert [error is None for _, error in told] == [True, False]
    assert tiers.calls.empty()


def test_pace_expects_the_slower_of_measured_and_seen():
    """Calls under load correct the measured cost upwards, never below it."""
    pace = Pace([dataclasses.replace(POLICY.tiers[0], cost_ms={1: 10.0})], 2)

    assert pace.expect_s(0, 1) == pytest.approx(0.010)
    assert pace.expect_s(0, 1, n_waiting=4) == pytest.approx(0.030)
    pace.took(0, 2, 0.002)
    assert pace.expect_s(0, 1) == pytest.approx(0.010)
    for _ in range(60):
        pace.took(0, 2, 0.080)
    assert pace.expect_s(0, 1) == pytest.approx(0.040, rel=1e-3)


def test_a_storm_reports_every_row_once():
    """Threads that send and lend, tiers that fail or are slow, timeouts and deadlines: all at once.

    Which row is answered is luck here; that each is told exactly once is not.
    """
    lock, told, sizes = threading.Lock(), Counter(), {}

    class Told:
        def __init__(self, key):
            self.key = key

        def report(self, rows, error):
            with lock:
                told.update((self.key, row) for row in rows.tolist())

        def ran(self, tier, rows, scores):
            pass

    luck = np.random.default_rng(0)

    def run(tier, rows):
        with lock:
            draw = luck.random()
        if draw < 0.2:
            time.sleep(0.05 * draw)
        if draw > 0.9:
            message = "down"
            raise (TierError if draw > 0.95 else DeadError)(message)
        return rows

    measured = [dataclasses.replace(t, cost_ms={}) for t in POLICY.tiers]
    escalation = Escalation(
        run,
        Pace(measured, 2),
        n_tiers=3,
        max_batch=4,
        max_waiting=40,
        workers=2,
        timeout_s=0.004,
    )
    escalation.start()

    def send(who):
        draws = np.random.default_rng(who)
        for k in range(150):
            n = sizes[who, k] = int(draws.integers(1, 6))
            until = time.monotonic() + draws.choice([0.002, 0.01, np.inf], n)
            logits = draws.choice([0.1, 9.0], (n, 2))
            one = group(logits, Told((who, k)), min_tier=0, until=until)
            if k % 3:
                escalation.send(one)
                continue
            for rest in escalation.lend(0, one, lambda: None):
                escalation.send(rest)

    threads = [threading.Thread(target=send, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    escalation.close()

    assert told == {(key, row): 1 for key, n in sizes.items() for row in range(n)}
