"""The thread that sleeps until something is due."""

import math
import queue
import time

import pytest

from cascade_router.watch import Watch


@pytest.fixture
def looks():
    return queue.Queue()


def started(look):
    watch = Watch(look)
    watch.start()
    return watch


def test_it_looks_at_the_earliest_moment_it_was_told(looks):
    """A later moment does not push an earlier one away, nor an earlier one wait for a later."""
    watch = started(lambda: looks.put(time.monotonic()) or math.inf)
    now = time.monotonic()

    watch.at(now + 3600)
    watch.at(now + 0.05)
    seen = looks.get(timeout=5)
    watch.close()

    assert seen >= now + 0.05
    assert looks.empty()


def test_it_looks_again_when_the_last_look_says_so(looks):
    """The look names the next moment."""
    moments = [time.monotonic() + 0.01, math.inf]

    def look():
        looks.put(None)
        return moments.pop(0)

    watch = started(look)
    watch.at(0.0)
    looks.get(timeout=5)
    looks.get(timeout=5)
    watch.close()

    assert moments == []


def test_a_fault_does_not_end_it(looks, caplog):
    """It is logged, and there is a next look."""
    faults = [ZeroDivisionError()]

    def look():
        if faults:
            raise faults.pop()
        looks.put(None)
        return math.inf

    watch = started(look)
    watch.at(0.0)
    looks.get(timeout=5)
    watch.close()

    assert "fault in the router" in caplog.text


def test_no_moment_is_too_far(looks):
    """A deadline of ages is slept towards like any other."""
    watch = started(lambda: math.inf)
    watch.at(1e300)
    watch.close()
