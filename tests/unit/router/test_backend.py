"""The Triton model of the router, with Triton's API faked: who is answered when, and how."""

import json
import threading
from collections import Counter

import numpy as np
import oracle
import pytest
from fake_triton import Request
from toy_router import NAMES, final, policy, start, with_costs

from cascade_router import Walk


def counted(server, family, label):
    """The sums of a family by one of its labels."""
    sums = Counter()
    for (name, *labels), n in server.counted.items():
        if name == family:
            sums[dict(labels)[label]] += n
    return dict(sums)


def test_mixed_requests_are_answered_as_the_oracle_says(router, server):
    """Any mix of points, bounds and batch sizes in one execute: each row as if it came alone."""
    rng = np.random.default_rng(3)
    values = json.loads(policy().to_json())
    requests, wanted = [], []
    for i in range(6):
        rows = rng.normal(0, 1, (1 + i % 2, 3)).astype(np.float32)
        low = int(rng.integers(0, 3))
        asked = {"cascade_point": ["fast", "exact"][i % 2], "cascade_max_tier": 2}
        asked |= {"cascade_min_tier": low}
        requests.append(Request({"X": rows}, asked))
        wanted.append(
            [oracle.answer(values, [r, 2 * r, 3 * r], asked["cascade_point"], low) for r in rows]
        )

    replies = router.execute(requests[:4]) + router.execute(requests[4:])

    for request, reply, rows in zip(requests, replies, wanted, strict=True):
        answer = final(request, reply)
        assert answer.output("TIER")[:, 0].tolist() == [tier for tier, _, _ in rows]
        assert answer.output("LABEL")[:, 0].tolist() == [label for _, label, _ in rows]
        np.testing.assert_allclose(
            answer.output("CONFIDENCE")[:, 0], [c for _, _, c in rows], atol=1e-6
        )
        assert answer.output("SCORES").shape == (len(rows), 3)


def test_rows_that_exit_leave_by_the_list_while_others_climb(router, server):
    """The sure request is answered when execute returns, the unsure one by its sender."""
    sure = Request({"X": np.array([[9, 0, 0]], dtype=np.float32)})
    unsure = Request({"X": np.array([[0.01, 0, 0]], dtype=np.float32)})

    replies = router.execute([unsure, sure])

    assert replies[0] is None
    assert replies[1].output("TIER").tolist() == [[0]]
    assert final(unsure, None).output("TIER").tolist() == [[2]]
    assert server.calls == [("c_small", 2), ("c_middle", 1), ("c_large", 1)]


def test_a_tier_that_is_quicker_than_a_sender_runs_in_place(server, folder):
    """With a measured cost under that of a sender, escalated rows are answered by the list."""
    with_costs(folder, {name: {1: 0.1} for name in NAMES})
    model = start(folder)
    rows = [[9, 0, 0], [0.4, 0, 0], [0.01, 0, 0]]

    replies = model.execute([Request({"X": np.array([r], dtype=np.float32)}) for r in rows])
    model.finalize()

    assert [reply.output("TIER").tolist() for reply in replies] == [[[0]], [[1]], [[2]]]
    assert server.calls == [("c_small", 3), ("c_middle", 2), ("c_large", 1)]


def test_only_the_requested_outputs_are_returned(router):
    """Nothing is built that nobody asked for."""
    request = Request({"X": np.array([[9, 0, 0]], dtype=np.float32)}, outputs=["TIER"])

    assert router.execute([request])[0].names() == {"TIER"}


def test_a_bad_request_fails_alone(router):
    """Its batch mates are answered; its error names what is wrong and is the caller's fault."""
    rows = np.array([[9, 0, 0]], dtype=np.float32)
    bad, good = Request({"X": rows}, {"cascade_point": "turbo"}), Request({"X": rows})

    replies = router.execute([bad, good])

    assert replies[0].error().code() == "INVALID_ARG"
    assert "'turbo' is unknown" in replies[0].error().message()
    assert replies[1].output("LABEL").tolist() == [[0]]


@pytest.mark.parametrize("value", ["9" * 5000, "x" * 20_000, "\ud800"])
def test_parameters_that_nobody_can_read_fail_alone(router, value):
    """Numbers of thousands of digits, texts of any length, what is no character."""
    rows = np.array([[9, 0, 0]], dtype=np.float32)
    bad = Request({"X": rows}, {"cascade_max_tier": value})

    replies = router.execute([bad, Request({"X": rows})])

    assert replies[0].error().code() == "INVALID_ARG"
    assert replies[1].output("LABEL").tolist() == [[0]]


def test_parameters_that_are_no_text_fail_alone(router):
    """Over HTTP Triton hands over bytes that are not UTF-8; Python refuses them when asked."""
    rows = np.array([[9, 0, 0]], dtype=np.float32)
    bad = Request({"X": rows})
    bad.parameters = b"\xff".decode

    replies = router.execute([bad, Request({"X": rows})])

    assert replies[0].error().message().startswith("parameters: no text")
    assert replies[1].output("LABEL").tolist() == [[0]]


def test_a_fault_of_ours_is_told_in_a_sentence(router, monkeypatch, caplog):
    """Each client of the batch reads that there was one; the log says which; then all is well."""
    requests = [Request({"X": np.array([[9, 0, 0]], dtype=np.float32)}) for _ in range(2)]
    bad = Request({"X": np.zeros((1, 3), dtype=np.float32)}, {"cascade_point": "turbo"})
    with monkeypatch.context() as patch:
        patch.setattr(Walk, "settle", lambda *_: {}.popitem())
        replies = router.execute([*requests, bad])

    for reply in replies[:2]:
        assert reply.error().message() == "fault in the router, see the server's log"
        assert reply.error().code() == "INTERNAL"
    assert replies[2].error().code() == "INVALID_ARG"
    assert "KeyError" in caplog.text
    assert router.execute(requests[:1])[0].output("TIER").tolist() == [[0]]


def test_a_fault_of_ours_after_rows_went_up_is_told_by_their_senders(router, monkeypatch):
    """Once, whatever becomes of the rows afterwards."""
    sure, unsure = (Request({"X": np.array([[s, 0, 0]], dtype=np.float32)}) for s in (9, 0.01))
    with monkeypatch.context() as patch:
        patch.setattr(router._escalation, "send", lambda group: {}.popitem())
        replies = router.execute([sure, unsure])

    assert replies[0].output("TIER").tolist() == [[0]]
    assert replies[1] is None
    assert "fault in the router" in final(unsure, None).error().message()
    assert unsure.sender.replies.empty()


@pytest.mark.parametrize("broken", NAMES)
def test_a_failing_expert_fails_only_rows_that_need_it(server, folder, broken):
    """Told to fail: rows that exit below are answered, the others learn which tier failed."""
    router = start(folder, on_tier_failure="fail")
    server.models[f"c_{broken}"] = lambda inputs: "engine on fire"
    scales = [9.0, 0.4, 0.01]  # exit at tiers 0, 1 and 2
    requests = [Request({"X": np.array([[s, 0, 0]], dtype=np.float32)}) for s in scales]

    answers = [final(q, r) for q, r in zip(requests, router.execute(requests), strict=True)]

    router.finalize()

    # The tiers run in one batch: whoever reaches the broken tier fails with it.
    failed = [answer.has_error() for answer in answers]
    assert failed == [k >= NAMES.index(broken) for k in range(3)]
    for answer in answers:
        if answer.has_error():
            assert answer.error().code() == "UNAVAILABLE"
            assert f"tier '{broken}' (model c_{broken}) failed" in answer.error().message()
            assert "Traceback" not in answer.error().message()


@pytest.mark.parametrize(
    ("how", "broken", "tiers"),
    [
        ("escalate", "middle", [0, 2, 2]),
        ("escalate", "large", [0, 1, 1]),
        ("escalate", "small", [1, 1, 2]),
        ("best_so_far", "middle", [0, 0, 0]),
        ("best_so_far", "large", [0, 1, 1]),
        ("best_so_far", "small", [1, 1, 2]),
    ],
)
def test_the_spec_says_who_stands_in_for_a_failed_tier(server, folder, how, broken, tiers):
    """TIER says who answered, DEGRADED that it was not who should have, and both are counted."""
    router = start(folder, on_tier_failure=how)
    server.models[f"c_{broken}"] = lambda inputs: "engine on fire"
    outputs = ["TIER", "DEGRADED"]
    scales = [9.0, 0.4, 0.01]  # exit at tiers 0, 1 and 2
    requests = [Request({"X": np.array([[s, 0, 0]], np.float32)}, outputs=outputs) for s in scales]

    answers = [final(q, r) for q, r in zip(requests, router.execute(requests), strict=True)]
    router.finalize()

    met = [k >= NAMES.index(broken) for k in range(3)]
    assert [int(a.output("TIER")[0, 0]) for a in answers] == tiers
    assert [bool(a.output("DEGRADED")[0, 0]) for a in answers] == met
    assert counted(server, "cascade_degraded_total", "reason") == {"tier": sum(met)}
    assert counted(server, "cascade_tier_failures_total", "tier") == {broken: 1}
    # One up when it was left alone, one down when the router ended.
    assert counted(server, "cascade_tier_open", "tier") == dict.fromkeys(NAMES, 0.0)


def test_a_first_tier_that_is_slow_does_not_hold_execute(server, folder):
    """It returns while the call is under way; a row with a deadline is answered at its deadline."""
    ready = threading.Event()

    def slow(inputs):
        assert ready.wait(30)
        return {"LOGITS": inputs["X"]}

    server.models["c_small"] = slow
    model = start(folder)
    rows = np.array([[9, 0, 0]], dtype=np.float32)
    hurried, patient = Request({"X": rows}, {"cascade_deadline_ms": 300}), Request({"X": rows})

    assert model.execute([hurried, patient]) == [None, None]
    refused = final(hurried, None)
    ready.set()
    answered = final(patient, None)
    model.finalize()

    assert refused.error().code() == "UNAVAILABLE"
    assert "cascade_deadline_ms: over before tier 0 had answered" in refused.error().message()
    assert answered.output("TIER").tolist() == [[0]]


def test_rows_under_way_do_not_lie_in_the_memory_of_their_request(server, folder):
    """What execute leaves behind is a copy: Triton uses that memory again."""
    ready = threading.Event()

    def slow(inputs):
        assert ready.wait(30)
        return {"LOGITS": inputs["X"]}

    server.models["c_small"] = slow
    model = start(folder)
    memory = np.array([[9, 0, 0], [0, 0, 0]], dtype=np.float32)
    request = Request({"X": memory[:1]})

    assert model.execute([request]) == [None]
    memory[:] = [0, 9, 0]
    ready.set()
    answer = final(request, None)
    model.finalize()

    assert answer.output("LABEL").tolist() == [[0]]


def test_exits_are_counted_by_point_and_tier(server, folder):
    """The counters add up to the rows answered."""
    model = start(folder)
    rows = np.array([[9, 0, 0], [0.01, 0, 0], [0.01, 0, 0]], dtype=np.float32)
    request = Request({"X": rows}, {"cascade_point": "exact"})

    final(request, model.execute([request])[0])
    model.finalize()

    assert counted(server, "cascade_exits_total", "tier") == {"small": 1, "large": 2}
    assert counted(server, "cascade_exits_total", "point") == {"exact": 3}
    assert counted(server, "cascade_escalations_total", "tier") == {"small": 2, "middle": 2}


def test_scores_are_counted_as_a_prometheus_histogram(server, folder):
    """Buckets are cumulative; a NaN score is in the last one alone."""
    model = start(folder)
    rows = np.array([[9, 0, 0], [0.01, 0, 0], [np.nan, 0, 0]], dtype=np.float32)
    request = Request({"X": rows}, {"cascade_max_tier": 0})

    final(request, model.execute([request])[0])
    model.finalize()

    buckets = counted(server, "cascade_score_bucket", "le")
    assert (buckets["0.4"], buckets["0.99"], buckets["+Inf"]) == (1, 1, 3)
    assert "0.3" not in buckets


def test_cost_and_what_the_largest_would_have_cost_are_counted(server, folder):
    """Three rows run the small tier, two the others too; the largest alone costs 9 ms a row."""
    costs = {"small": {1: 1.0}, "middle": {1: 3.0}, "large": {1: 9.0}}
    with_costs(folder, costs)
    model = start(folder)
    rows = np.array([[9, 0, 0], [0.01, 0, 0], [0.01, 0, 0]], dtype=np.float32)
    request = Request({"X": rows})

    final(request, model.execute([request])[0])
    model.finalize()

    assert counted(server, "cascade_cost_ms_total", "point") == {"fast": 3 * 1.0 + 2 * (3 + 9)}
    assert counted(server, "cascade_cost_largest_ms_total", "point") == {"fast": 27.0}


def test_a_row_the_last_tier_is_unsure_of_gets_no_label(server, folder):
    """Below the floor the label is -1 and counted; confidence and scores are the expert's."""
    model = start(folder, abstain_below="0.5")
    rows = np.array([[9, 0, 0], [0.01, 0, 0], [0.3, 0, 0]], dtype=np.float32)
    request = Request({"X": rows}, {"cascade_point": "exact"})

    answer = final(request, model.execute([request])[0])
    model.finalize()

    assert answer.output("TIER")[:, 0].tolist() == [0, 2, 2]
    assert answer.output("LABEL")[:, 0].tolist() == [0, -1, 0]
    assert answer.output("CONFIDENCE")[1, 0] == answer.output("SCORES")[1].max()
    assert counted(server, "cascade_abstentions_total", "point") == {"exact": 1}


def test_a_deadline_stops_before_a_tier_that_cannot_make_it(server, folder):
    """The best answer so far says by TIER who gave it; a request without deadline goes on."""
    with_costs(folder, {"small": {1: 1.0}, "middle": {1: 5.0}, "large": {1: 60_000.0}})
    model = start(folder)
    unsure = np.array([[0.01, 0, 0]], dtype=np.float32)
    hurried = Request({"X": unsure}, {"cascade_deadline_ms": 5000})
    patient = Request({"X": unsure})
    hopeless = Request({"X": unsure}, {"cascade_deadline_ms": 1e-6})

    replies = model.execute([hurried, patient, hopeless])
    answers = [final(q, r) for q, r in zip((hurried, patient, hopeless), replies, strict=True)]
    model.finalize()

    assert [a.output("TIER").tolist() for a in answers[:2]] == [[[1]], [[2]]]
    assert answers[2].error().code() == "UNAVAILABLE"
    assert "cascade_deadline_ms: tier 0 is expected to take" in answers[2].error().message()


def test_a_new_policy_brings_its_costs_along(server, folder):
    """Measured after the router was loaded: deadlines go by them from then on."""
    model = start(folder)
    unsure = np.array([[0.01, 0, 0]], dtype=np.float32)
    with_costs(folder, {"small": {1: 1.0}, "middle": {1: 5.0}, "large": {1: 60_000.0}})

    def tier():
        hurried = Request({"X": unsure}, {"cascade_deadline_ms": 5000})
        return final(hurried, model.execute([hurried])[0]).output("TIER").tolist()

    tiers = []
    while tiers[-1:] != [[[1]]] and len(tiers) < 100:
        threading.Event().wait(0.05)
        tiers.append(tier())
    model.finalize()

    assert tiers[-1] == [[1]]
