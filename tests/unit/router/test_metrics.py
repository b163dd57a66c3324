"""What is counted reaches the server, whatever becomes of one attempt to hand it over."""

import sys
import threading

import pytest
from fake_triton import Server, TritonModelException

from cascade_router import metrics
from cascade_router.metrics import Meters


class Place:
    """The server's counters, told once a period that something has come."""

    def __init__(self, server, module):
        self.server, self.come = server, threading.Event()
        self.fails = 0
        self._metric = module.MetricFamily
        place = self

        class Family(self._metric):
            def Metric(self, labels):  # noqa: N802  # Triton's name
                inner = super().Metric(labels)
                return type("Metric", (), {"increment": place.increment(inner)})()

        module.MetricFamily = Family

    def increment(self, inner):
        def do(_, n):
            if self.fails:
                self.fails -= 1
                raise TritonModelException("no room left")
            inner.increment(n)
            self.come.set()

        return do


@pytest.fixture
def place(monkeypatch):
    server = Server()
    module = server.module()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    return Place(server, module)


def failures(place):
    key = "cascade_tier_failures_total"
    return sum(n for (name, *_), n in place.server.counted.items() if name == key)


def test_what_the_server_does_not_take_is_handed_over_later(place):
    """Shared memory may be full for a moment: nothing is lost, and nothing piles up."""
    place.fails = 3
    meters = Meters("c", ["a"], period_s=0.01)
    for _ in range(5):
        meters.tier_failed(0, "error")
    while failures(place) < 5:
        assert place.come.wait(5)
        place.come.clear()

    assert not meters._noted
    meters.close()


def test_a_fault_in_adding_up_does_not_end_the_counting(place, monkeypatch):
    """What comes after it is counted."""
    add, broken = metrics._add, threading.Event()

    def once(sums, noted):
        if noted and not broken.is_set():
            broken.set()
            raise ZeroDivisionError
        add(sums, noted)

    monkeypatch.setattr(metrics, "_add", once)
    meters = Meters("c", ["a"], period_s=0.01)
    assert broken.wait(5)
    meters.tier_failed(0, "error")
    assert place.come.wait(5)
    meters.close()

    assert failures(place) == 1
