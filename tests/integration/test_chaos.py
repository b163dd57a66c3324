"""Faults done to the real server under load, each answer held against the oracle: `make chaos` in
short. Faults of one ground share a server, one after the other; nothing is held to a time here."""

from contextlib import ExitStack

import pytest
from benchmarks.chaos.__main__ import survive
from benchmarks.chaos.faults import faults

SHORT = faults(short=True)


class Grounds:
    """Keeps the server of the fault before, in case the next one is done there, too."""

    def __init__(self, tmp_path_factory):
        self._folders = tmp_path_factory
        self._open = ExitStack()
        self._ground = self._site = None

    def of(self, fault):
        if fault.ground is not self._ground:
            self.close()
            self._site = self._open.enter_context(fault.ground(self._folders.mktemp("chaos")))
            self._ground = fault.ground
        return self._site

    def close(self):
        self._ground = None
        self._open.close()


@pytest.fixture(scope="module")
def grounds(tmp_path_factory):
    made = Grounds(tmp_path_factory)
    yield made
    made.close()


@pytest.mark.parametrize("fault", SHORT, ids=[fault.name for fault in SHORT])
def test_a_fault_is_survived(grounds, fault):
    """Every request is answered rightly, degraded as the policy says, or refused clearly."""
    report = survive(fault, grounds.of(fault))

    if report.skipped:
        pytest.skip(report.skipped)
    assert report.broken == []
    assert report.counts["right"] > 0
