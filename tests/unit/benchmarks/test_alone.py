"""Processes of peers: what ends too early is told, with what it said."""

import subprocess
import sys

import pytest
from benchmarks.peers import alone
from benchmarks.peers.alone import running
from benchmarks.peers.program import READY

from cascade_router.errors import NotReadyError, ServerError


def test_a_program_that_ends_is_told_with_its_last_words(setup):
    """Nobody waits for it; the hint holds the end of its log."""
    with (
        pytest.raises(ServerError, match="no_such_app: ended with status 1") as caught,
        running("no_such_app", setup, 1, lambda _: {}),
    ):
        pass

    assert "No module named" in caught.value.hint


def test_a_program_that_does_not_answer_is_given_up(setup):
    """The wait has an end."""
    with (
        pytest.raises(NotReadyError, match="program: was not ready within 0 s"),
        running("program", setup, 1, lambda _: {}, timeout_s=0.0),
    ):
        pass


@pytest.fixture
def begin(monkeypatch):
    """Stand-ins for the program: some that end at once, then one that serves until told to end."""

    def planted(fails):
        begun = []

        def start(_, log, __):
            log.touch()
            ends = len(begun) < fails
            if not ends:
                (log.parent / READY).touch()
            code = "raise SystemExit(1)" if ends else "import sys; sys.stdin.read()"
            begun.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE))
            return begun[-1]

        monkeypatch.setattr(alone, "_start", start)
        return begun

    return planted


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_a_program_that_ends_is_started_again_as_often_as_it_may(setup, begin, fails):
    """The one that serves is handed out; those that ended are not told of."""
    begun = begin(fails)

    with running("program", setup, 1, lambda _: {}, starts=3) as process:
        assert process is begun[-1]
        assert process.poll() is None

    assert len(begun) == fails + 1


def test_a_program_that_ends_each_time_is_given_up(setup, begin):
    """The last one's end counts."""
    begun = begin(9)

    with (
        pytest.raises(ServerError, match="program: ended with status 1"),
        running("program", setup, 1, lambda _: {}, starts=3),
    ):
        pass

    assert len(begun) == 3


def test_what_goes_wrong_while_it_serves_starts_nothing(setup, begin):
    """The block's own errors leave it as they are."""
    begun = begin(0)

    with (
        pytest.raises(ServerError, match="in the block"),
        running("program", setup, 1, lambda _: {}, starts=3),
    ):
        raise ServerError("in the block")

    assert len(begun) == 1
