"""Queues and workers of the tiers, driven by fakes: merging, splitting, bounds, faults."""

import queue
import threading

import numpy as np
import pytest

from cascade_router import Gate, OperatingPoint, Policy, Tier, TierError, Walk
from cascade_router.errors import BusyError
from cascade_router.escalation import Escalation, Group

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


@pytest.fixture
def tiers():
    return Tiers()


@pytest.fixture
def escalation(tiers):
    made = Escalation(tiers, n_tiers=3, max_batch=4, max_waiting=8, workers=1)
    yield made
    tiers.hold.set()
    made.close()


def group(logits, reports):
    logits = np.asarray(logits, dtype=np.float32)
    walk = Walk(POLICY, point=np.zeros(len(logits), dtype=int), min_tier=1)
    return Group(
        walk, np.arange(len(logits)), logits, lambda rows, error: reports.put((rows, error))
    )


SURE, UNSURE = [9.0, 0.0], [0.1, 0.0]


def test_decided_rows_are_reported_before_rows_that_climb(escalation, tiers):
    """A row that tier 1 decides is reported while its batch mate still runs tier 2."""
    reports = queue.Queue()
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
    reports = queue.Queue()
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
    reports = queue.Queue()
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
    reports = queue.Queue()

    escalation.send(group([[value, 0]], reports))
    rows, error = reports.get(timeout=5)
    escalation.send(group([SURE], reports))

    assert (rows.tolist(), type(error)) == ([0], TierError)
    assert message in str(error)
    assert reports.get(timeout=5)[1] is None


def test_close_finishes_what_waits():
    """Closing answers every row that was taken in."""
    tiers, reports = Tiers(), queue.Queue()
    escalation = Escalation(tiers, n_tiers=3, max_batch=4, max_waiting=99, workers=2)
    for _ in range(20):
        escalation.send(group([UNSURE, SURE], reports))

    escalation.close()

    assert sum(len(reports.get_nowait()[0]) for _ in range(reports.qsize())) == 40
