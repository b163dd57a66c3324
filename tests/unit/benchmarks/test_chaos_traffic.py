"""The load of the chaos runs: whatever happens to a request, it ends, in one way that is told."""

import socket
import time

import numpy as np
import pytest
from benchmarks.chaos.expected import Question
from benchmarks.chaos.judge import Excuse, Kind
from benchmarks.chaos.traffic import Pace, Traffic

POLICY = {
    "activation": "softmax",
    "default": "only",
    "tiers": [{"score": {}}],
    "points": [{"name": "only", "gates": [{}]}],
}


def load(pace, row, url="127.0.0.1:1"):
    question = Question(
        row=row, ask={}, policy=POLICY, logits=np.array([[0.0, 1.0]]), on_failure="fail"
    )
    return Traffic([url], "null", "X", [question], pace)


@pytest.fixture
def deaf():
    """The address of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("rate", [None, 200.0])
def test_a_request_that_breaks_the_load_itself_is_wrong_and_ends(rate):
    """A row that cannot even be sent costs its own request; the next ones are sent all the same."""
    pace = Pace(rate=rate, callers=2, total=6, deadline_ms=None)
    with load(pace, row=object()) as traffic:
        while traffic.wrong < 6:
            assert traffic.running
            time.sleep(0.005)
        traffic.stop()
        traffic.wait_ended(time.monotonic())

    assert traffic.sent == len(traffic.entries) == traffic.wrong
    assert {entry.kind for entry in traffic.entries} == {Kind.WRONG}
    assert "no clear error" in traffic.troubles()[0]


def test_a_request_that_nobody_answers_ends_by_its_callers_clock(deaf):
    """Waiting for the end of what is under way takes no longer than a caller's patience."""
    pace = Pace(rate=None, callers=2, total=2, deadline_ms=50.0, grace_ms=50.0)
    with load(pace, np.zeros(4, np.float32), deaf) as traffic:
        traffic.excuse(Excuse(silence=True))
        while traffic.sent < 2:
            time.sleep(0.005)
        traffic.wait_ended(time.monotonic())

    assert len(traffic.entries) == 2
    assert {entry.kind for entry in traffic.entries} <= {Kind.SILENT, Kind.WRONG}
