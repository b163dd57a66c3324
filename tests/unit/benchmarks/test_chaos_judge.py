"""The judge of the chaos runs: it must see what is wrong, and excuse only what a fault may do."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.chaos.expected import Question, clear_of_edges, questions
from benchmarks.chaos.judge import Excuse, How, Kind, judged, judged_error

from cascade_router.errors import (
    BusyError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    ServerError,
    TierError,
)

POLICY = {
    "activation": "softmax",
    "default": "only",
    "tiers": [{"name": name, "score": {}} for name in ("small", "middle", "large")],
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


def kind(asked, got, excuse=NO_EXCUSE, *, deadline=False):
    return judged([[asked]], got, excuse, deadline=deadline)[0]


def kind_of(error, excuse=NO_EXCUSE, asked=None, *, deadline=False):
    return judged_error(error, excuse, [[asked or question()]], deadline=deadline)[0]


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
    assert kind(question(), reply(1, How.CUT), deadline=True) is Kind.DEGRADED
    assert kind(question(), reply(2, How.CUT), deadline=True) is Kind.WRONG
    assert kind(question(min_tier=2), reply(1, How.CUT), deadline=True) is Kind.WRONG


def test_a_deadline_may_cut_short_what_a_failure_sent_up():
    """The first tier would have answered; it failed, and time ran out at the second."""
    sure = LOGITS * np.array([[9.0], [1.0], [1.0]])
    asked, tier_0 = question(logits=sure), Excuse(tiers=frozenset({0}))

    assert kind(asked, reply(0, confidence=softmax(0, sure))) is Kind.RIGHT
    assert kind(asked, reply(1, How.CUT), tier_0, deadline=True) is Kind.DEGRADED
    assert kind(asked, reply(1, How.CUT), TIER_2, deadline=True) is Kind.WRONG
    assert kind(asked, reply(2, How.CUT), tier_0, deadline=True) is Kind.WRONG


def test_no_deadline_cuts_what_was_sent_without_one():
    """Nothing but a deadline makes an answer short."""
    assert kind(question(), reply(1, How.CUT)) is Kind.WRONG


def test_rows_of_one_request_must_all_fit_one_edition():
    """Two editions may answer, a mixture of them may not."""
    swapped = LOGITS[:, ::-1]
    old = [question(), question()]
    new = [question(logits=swapped), question(logits=swapped)]
    mixed = reply(2, n=2)
    mixed["LABEL"] = np.array([[0], [2]])

    assert judged([old, new], reply(2, n=2), Excuse(), deadline=False)[0] is Kind.RIGHT
    assert judged([old, new], reply(2, label=2, n=2), Excuse(), deadline=False)[0] is Kind.RIGHT
    assert judged([old, new], mixed, Excuse(), deadline=False)[0] is Kind.WRONG


FULL = BusyError("tier 1: queue full, 32 rows may wait")
FAILED = BusyError("tier 'large' (model x_large) failed: Stub process is not healthy.")
LEFT_ALONE = BusyError("tier 2 failed (left alone for a while)")
SLOW = BusyError("tier 2: no answer within 10000 ms")
GONE = NotReadyError("tier 'large' (model x_large) failed: Model 'x_large' is not ready")
LATE = BusyError("cascade_deadline_ms: over before tier 2 had answered")
NO_MODEL = NotReadyError("Request for unknown model: 'x' is not ready")
NO_ANSWER = NoAnswerError("x: no answer in time")
DEAD = Excuse(silence=True)


@pytest.mark.parametrize(
    ("error", "excuse", "expected"),
    [
        (FULL, Excuse(full=True), Kind.REFUSED),
        (FULL, TIER_2, Kind.WRONG),
        (NO_MODEL, DEAD, Kind.REFUSED),
        (NO_MODEL, TIER_2, Kind.WRONG),
        (NO_MODEL, Excuse(full=True), Kind.WRONG),
        (TierError("Stub process 'x_router_0_0' is not healthy."), DEAD, Kind.REFUSED),
        (TierError("Stub process 'x_router_0_0' is not healthy."), TIER_2, Kind.WRONG),
        (TierError("fault in the router, see the server's log"), DEAD, Kind.WRONG),
        (TierError("logits: got shape (2, 3), expected (2, 4)"), DEAD, Kind.WRONG),
        (BusyError("for a reason that nobody knows"), Excuse(full=True, silence=True), Kind.WRONG),
        (BusyError("tier 2: fault in the router, see the log"), TIER_2, Kind.WRONG),
        (RequestError("bad row"), Excuse(full=True), Kind.WRONG),
        (ServerError("no connection"), Excuse(full=True), Kind.WRONG),
        (ServerError("no connection"), Excuse(connection=True), Kind.BROKEN),
        (NO_ANSWER, Excuse(full=True), Kind.WRONG),
        (NO_ANSWER, DEAD, Kind.SILENT),
    ],
)
def test_a_failure_needs_its_excuse_and_a_sentence_that_is_known(error, excuse, expected):
    """Full queues, dead models, broken connections and silence are told apart."""
    assert kind_of(error, excuse) is expected


@pytest.mark.parametrize("error", [FAILED, LEFT_ALONE, SLOW, GONE])
def test_a_failed_tier_refuses_only_what_has_no_answer_without_it(error):
    """Whatever its status: the policy says whether a row may be refused."""
    alone = question(min_tier=2)

    assert kind_of(error, TIER_2, alone) is Kind.REFUSED
    assert kind_of(error, TIER_2, question("fail")) is Kind.REFUSED
    assert kind_of(error, TIER_2, question()) is Kind.WRONG
    assert kind_of(error, TIER_2, question("best_so_far")) is Kind.WRONG
    assert kind_of(error, TIER_1, alone) is Kind.WRONG
    assert kind_of(error, NO_EXCUSE, alone) is Kind.WRONG


@pytest.mark.parametrize("error", [FAILED, LEFT_ALONE, SLOW, GONE])
def test_a_tier_that_is_well_may_not_refuse_in_the_name_of_one_that_failed(error):
    """These all name the third tier: that the first has failed is no excuse for it."""
    both = Excuse(tiers=frozenset({0, 2}))

    assert kind_of(error, Excuse(tiers=frozenset({0})), question("fail")) is Kind.WRONG
    assert kind_of(error, both, question("fail")) is Kind.REFUSED


def test_time_runs_out_only_where_it_was_bounded_and_something_is_amiss():
    """A refusal for want of time needs a deadline and a tier that may hang."""
    alone = question(min_tier=2)

    assert kind_of(LATE, TIER_2, alone, deadline=True) is Kind.REFUSED
    assert kind_of(LATE, TIER_1, alone, deadline=True) is Kind.REFUSED
    assert kind_of(LATE, TIER_2, alone) is Kind.WRONG
    assert kind_of(LATE, asked=alone, deadline=True) is Kind.WRONG


def test_time_may_not_run_out_for_a_row_that_was_answered_below_what_failed():
    """A tier that hangs holds up the rows that begin there or are sent up, and no others."""
    off = {"points": [{"name": "only", "gates": [{"off": True}, {"threshold": 0.9}, {}]}]}
    begins_at_1 = replace(question(), policy=POLICY | off)

    assert kind_of(LATE, TIER_2, deadline=True) is Kind.WRONG
    assert kind_of(LATE, TIER_1, deadline=True) is Kind.WRONG
    assert kind_of(LATE, Excuse(tiers=frozenset({0})), deadline=True) is Kind.REFUSED
    assert kind_of(LATE, TIER_1, begins_at_1, deadline=True) is Kind.REFUSED


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last)",
        'File "model.py", line 3',
        "KeyError: 'x'\n\nAt:\n  /models/x/1/backend.py(99): execute",
        "KeyError: 'x' in backend.py(99)",
    ],
)
def test_no_caller_is_told_where_the_code_broke(text):
    """In whatever form an exception arrives, no excuse is good enough."""
    everything = Excuse(tiers=frozenset({0, 1, 2}), full=True, connection=True, silence=True)

    assert kind_of(TierError(text), everything) is Kind.WRONG


def test_rows_on_the_edge_of_a_threshold_are_not_asked():
    """Under several policies a row is left out of all when it is on the edge of one."""
    logits = np.stack([LOGITS, np.zeros((3, 3))], axis=1)
    third = {"points": [{"name": "only", "gates": [{"threshold": 1 / 3}, {}, {}]}]}

    asked = questions([POLICY, POLICY | third], ["a", "b"], logits, [{}])

    assert [[one.row for one in some] for some in clear_of_edges(asked)] == [["a"], ["a"]]
    assert replace(asked[0][0], row="c").right == asked[0][0].right
