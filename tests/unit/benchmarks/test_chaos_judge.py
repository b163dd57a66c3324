"""The judge of the chaos runs: it must see what is wrong, and excuse only what a fault may do."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.chaos.expected import Question, clear_of_edges, questions
from benchmarks.chaos.judge import Excuse, How, Kind, judged, judged_error

from cascade_router.errors import (
    BusyError,
    NoAnswerError,
    RequestError,
    ServerError,
    TierError,
)

POLICY = {
    "activation": "softmax",
    "default": "only",
    "tiers": [{"score": {}}, {"score": {}}, {"score": {}}],
    "points": [{"name": "only", "gates": [{"threshold": 0.9}, {"threshold": 0.9}, {}]}],
}
LOGITS = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
"""A row that neither of the first two tiers is sure of: the third answers, label 0."""

NO_EXCUSE = Excuse()
TIER_1 = Excuse(tiers=frozenset({1}))
TIER_2 = Excuse(tiers=frozenset({2}))


def question(on_failure="escalate", logits=LOGITS, **ask):
    return Question(row=None, ask=ask, policy=POLICY, logits=logits, on_failure=on_failure)


def softmax(tier, logits=LOGITS):
    powers = np.exp(logits[tier] - logits[tier].max())
    return float(powers.max() / powers.sum())


def reply(tier, how=How.FULL, label=None, confidence=None, n=1):
    label = int(LOGITS[tier].argmax()) if label is None else label
    confidence = softmax(tier) if confidence is None else confidence
    values = {"TIER": tier, "LABEL": label, "CONFIDENCE": confidence, "DEGRADED": how}
    return {name: np.full((n, 1), value) for name, value in values.items()}


def kind(asked, got, excuse=NO_EXCUSE):
    return judged([[asked]], got, excuse)[0]


def test_the_oracles_answer_is_right_and_any_other_is_wrong():
    """Tier, label and confidence must all be those of the whole cascade."""
    assert kind(question(), reply(2)) is Kind.RIGHT
    for other in (
        reply(1),
        reply(2, label=1),
        reply(2, confidence=softmax(2) + 0.01),
        reply(2, How.FAILED),
        {"TIER": np.zeros((1, 1))},
        reply(2, n=2),
    ):
        assert kind(question(), other) is Kind.WRONG


def test_a_degraded_answer_must_be_the_one_that_the_policy_makes_of_this_failure():
    """Escalating goes round the tier; else the best so far; nothing where a failure fails."""
    best, none = question("best_so_far"), question("fail")

    assert kind(question(), reply(1, How.FAILED), TIER_2) is Kind.DEGRADED
    assert kind(question(), reply(2, How.FAILED), TIER_1) is Kind.DEGRADED
    assert kind(best, reply(0, How.FAILED), TIER_1) is Kind.DEGRADED
    assert kind(question(), reply(0, How.FAILED), TIER_1) is Kind.WRONG
    assert kind(none, reply(1, How.FAILED), TIER_2) is Kind.WRONG


def test_a_failure_is_excused_only_where_the_fault_is_and_where_the_row_came():
    """No tier fails without a fault, and none that the row never reached."""
    easy = question(logits=np.array([[9.0, 0.0, 0.0]] * 3))
    sure = softmax(0, np.array([[9.0, 0.0, 0.0]]))

    assert kind(question(), reply(1, How.FAILED)) is Kind.WRONG
    assert kind(easy, reply(0, label=0, confidence=sure)) is Kind.RIGHT
    assert kind(easy, reply(0, How.FAILED, label=0, confidence=sure), TIER_2) is Kind.WRONG


def test_a_deadline_may_cut_a_walk_short_but_not_change_it():
    """Cut short is an answer of a tier below, said to be so."""
    assert kind(question(), reply(1, How.CUT)) is Kind.DEGRADED
    assert kind(question(), reply(2, How.CUT)) is Kind.WRONG
    assert kind(question(min_tier=2), reply(1, How.CUT)) is Kind.WRONG


def test_rows_of_one_request_must_all_fit_one_edition():
    """Two editions may answer, a mixture of them may not."""
    swapped = LOGITS[:, ::-1]
    old = [question(), question()]
    new = [question(logits=swapped), question(logits=swapped)]
    mixed = reply(2, n=2)
    mixed["LABEL"] = np.array([[0], [2]])

    assert judged([old, new], reply(2, n=2), Excuse())[0] is Kind.RIGHT
    assert judged([old, new], reply(2, label=2, n=2), Excuse())[0] is Kind.RIGHT
    assert judged([old, new], mixed, Excuse())[0] is Kind.WRONG


@pytest.mark.parametrize(
    ("error", "excuse", "expected"),
    [
        (BusyError("queue full"), Excuse(refusals=True), Kind.REFUSED),
        (TierError("tier failed"), Excuse(refusals=True), Kind.REFUSED),
        (TierError("tier failed"), Excuse(), Kind.WRONG),
        (TierError("Traceback (most recent call last)"), Excuse(refusals=True), Kind.WRONG),
        (RequestError("bad row"), Excuse(refusals=True), Kind.WRONG),
        (ServerError("no connection"), Excuse(refusals=True), Kind.WRONG),
        (ServerError("no connection"), Excuse(connection=True), Kind.BROKEN),
        (NoAnswerError("x: no answer in time"), Excuse(refusals=True), Kind.WRONG),
        (NoAnswerError("x: no answer in time"), Excuse(silence=True), Kind.SILENT),
    ],
)
def test_a_failure_needs_an_excuse_and_a_clear_sentence(error, excuse, expected):
    """Refusals, broken connections and silence are told apart."""
    assert judged_error(error, excuse)[0] is expected


def test_rows_on_the_edge_of_a_threshold_are_not_asked():
    """Under several policies a row is left out of all when it is on the edge of one."""
    logits = np.stack([LOGITS, np.zeros((3, 3))], axis=1)
    third = {"points": [{"name": "only", "gates": [{"threshold": 1 / 3}, {}, {}]}]}

    asked = questions([POLICY, POLICY | third], ["a", "b"], logits, [{}])

    assert [[one.row for one in some] for some in clear_of_edges(asked)] == [["a"], ["a"]]
    assert replace(asked[0][0], row="c").right == asked[0][0].right
