"""Queues and workers of the tiers, driven by fakes: merging, splitting, bounds, faults."""

import dataclasses
import queue
import threading

import numpy as np
import pytest

from cascade_router import Gate, OperatingPoint, Policy, Tier, TierError, Walk
from cascade_router.errors import BusyError
from cascade_router.escalation import Escalation, Group
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

    def __call__(self, tier, rows):
        self.calls.put((tier, len(rows)))
        assert self.hold.wait(10)
        if np.isnan(rows).any():
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
    return Escalation(tiers, Pace(measured, 1), n_tiers=3, clock=clock, **bounds)


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


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "down"), (np.inf, "fault in the router, see the server's log")]
)
def test_a_failed_call_fails_its_rows_and_no_others(escalation, tiers, value, message):
    """A tier's error, and our own fault too, reach the rows of that call; the worker lives on."""
    reports = Reports()

    escalation.send(group([[value, 0]], reports))
    rows, error = reports.get(timeout=5)
    escalation.send(group([SURE], reports))

    assert (rows.tolist(), type(error)) == ([0], TierError)
    assert message in str(error)
    assert reports.get(timeout=5)[1] is None


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
