"""Answers."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from cascade_client.answer import Names, answers_from_arrays
from cascade_client.report import answer_table


def arrays(n=2):
    return {
        "LABEL": np.array([[2], [0]], dtype=np.int32)[:n],
        "CONFIDENCE": np.array([[0.5], [0.9]], dtype=np.float32)[:n],
        "TIER": np.array([[1], [0]], dtype=np.int32)[:n],
        "SCORES": np.array([[0.25, 0.25, 0.5], [0.9, 0.1, 0]], dtype=np.float32)[:n],
    }


NAMES = Names(labels=("cat", "dog", "cow"), tiers=("small", "large"))


def test_each_row_gets_its_own_answer():
    """Row i of every output makes answer i."""
    first, second = answers_from_arrays(arrays(), 2, ms=3.0, names=NAMES)

    assert (first.label, first.label_name, first.tier, first.tier_name) == (2, "cow", 1, "large")
    assert (second.label_name, second.tier_name, second.ms) == ("cat", "small", 3.0)
    assert second.confidence == pytest.approx(0.9)


def test_top_ranks_by_probability_and_ties_by_class():
    """More classes than there are is all of them."""
    answer = answers_from_arrays(arrays(), 2, ms=0.0, names=NAMES)[0]

    assert [(r.label, r.name) for r in answer.top(9)] == [(2, "cow"), (0, "cat"), (1, "dog")]
    assert answer.as_json(top=1)["top"] == [{"label": 2, "name": "cow", "probability": 0.5}]


def test_without_names_numbers_do():
    """A server that knows no names still answers."""
    answer = answers_from_arrays(arrays(), 2, ms=0.0, names=Names())[0]

    assert (answer.label_name, answer.tier_name) == (None, "tier 1")


def test_a_degraded_answer_says_why():
    """In a word for programs, in the table for people; without the output all is well."""
    told = {**arrays(), "DEGRADED": np.array([[1], [2]], dtype=np.int32)}
    answers = answers_from_arrays(told, 2, ms=0.0, names=NAMES)
    plain = answers_from_arrays(arrays(), 2, ms=0.0, names=NAMES)

    assert [a.degraded for a in answers] == ["tier", "deadline"]
    assert [a.as_json()["degraded"] for a in plain] == [None, None]
    shown = StringIO()
    Console(file=shown, width=120).print(answer_table(zip("ab", answers, strict=True), 1))
    assert "1 large, a tier failed" in shown.getvalue()
    assert "0 small, cut short" in shown.getvalue()


def test_top_needs_scores_and_a_count():
    """Both refusals say what to do."""
    some = {k: v for k, v in arrays().items() if k != "SCORES"}
    without = answers_from_arrays(some, 2, ms=0.0, names=NAMES)[0]
    with_scores = answers_from_arrays(arrays(), 2, ms=0.0, names=NAMES)[0]

    with pytest.raises(ValueError, match="scores=True"):
        without.top(1)
    with pytest.raises(ValueError, match="at least 1"):
        with_scores.top(0)


@pytest.mark.parametrize("name", ["LABEL", "CONFIDENCE", "TIER"])
def test_a_reply_without_an_output_is_refused(name):
    """The missing output is named."""
    some = {k: v for k, v in arrays().items() if k != name}

    with pytest.raises(ValueError, match=name):
        answers_from_arrays(some, 2, ms=0.0, names=NAMES)


@pytest.mark.parametrize("name", ["LABEL", "CONFIDENCE", "TIER", "SCORES"])
def test_a_reply_with_other_rows_is_refused(name):
    """Rows are never guessed into place."""
    with pytest.raises(ValueError, match=r"rows|reshape"):
        answers_from_arrays({**arrays(), name: arrays(1)[name]}, 2, ms=0.0, names=NAMES)


def test_a_row_named_by_its_text_is_shown_letter_by_letter():
    """What looks like a table's markup is only text, in rows and in names of classes."""
    names = Names(labels=("cat", "dog", "[red]cow[/red]"))
    (answer,) = answers_from_arrays(arrays(1), 1, ms=1.0, names=names)
    out = StringIO()

    Console(file=out, width=100).print(answer_table([("[bold]play[/bold] [/]", answer)], 1))

    assert "[bold]play[/bold] [/]" in out.getvalue()
    assert "[red]cow[/red]" in out.getvalue()
