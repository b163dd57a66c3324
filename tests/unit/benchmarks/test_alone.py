"""Processes of peers: what ends too early is told, with what it said."""

import pytest
from benchmarks.peers.alone import running

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
