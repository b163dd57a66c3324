"""Being told to stop: once, twice, and not at all where the caller said so."""

import signal
import threading

import pytest

from cascade_router.supervision.signals import told_to_stop

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Recorded(threading.Event):
    """Knows which thread set it."""

    by = None

    def set(self):
        self.by = threading.current_thread()
        super().set()


@pytest.fixture(autouse=True)
def handlers():
    """As a shell gives them, whatever this test run was started with; put back afterwards."""
    before = {sign: signal.signal(sign, signal.SIG_DFL) for sign in SIGNALS}
    yield
    for sign, handler in before.items():
        signal.signal(sign, handler)


@pytest.mark.parametrize("sign", SIGNALS)
def test_the_first_stops_and_the_second_hurries(sign):
    """Whichever of them it is."""
    stop, hurry = threading.Event(), threading.Event()
    with told_to_stop(stop, hurry):
        signal.raise_signal(sign)
        assert stop.wait(10)
        assert not hurry.is_set()
        signal.raise_signal(sign)
        assert hurry.wait(10)
        for _ in range(3):  # more are nothing new
            signal.raise_signal(sign)
    assert signal.getsignal(sign) is signal.SIG_DFL


def test_the_thread_that_hears_the_signal_does_not_set_the_event():
    """It may hold the event's lock just then, and would wait for itself for ever."""
    stop = Recorded()
    with told_to_stop(stop, threading.Event()):
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(10)
    assert stop.by is not threading.main_thread()


def test_what_was_ignored_stays_ignored():
    """`nohup cascade-serve` outlives its terminal."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = threading.Event()
    with told_to_stop(stop, threading.Event()):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(10)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_nothing_said_nothing_set():
    """And the thread that listens ends with it."""
    stop, hurry = threading.Event(), threading.Event()
    before = threading.active_count()
    with told_to_stop(stop, hurry):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert not stop.is_set()
    assert not hurry.is_set()
