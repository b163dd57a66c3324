"""The clients against a served cascade behind the seam."""

import asyncio
import dataclasses

import numpy as np
import pytest
from fake_cascade import AsyncFake, FakeCascade, row

from cascade_client import AsyncCascadeClient, CascadeClient
from cascade_client.calls import Infer, Port
from cascade_router.errors import (
    BusyError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    ServerError,
    TierError,
)


@pytest.fixture
def client(fake):
    return CascadeClient("here", "pitch", transport=fake, sleep=lambda s: None)


def test_rows_are_answered_in_their_order(client):
    """Each row has the label, tier and names that belong to it."""
    answers = client.infer([row(2, 0.9), row(1, 0.1), row(3, 0.5)], point="fast")

    assert [(a.label_name, a.tier_name) for a in answers] == [
        ("mi", "tiny"),
        ("re", "full"),
        ("fa", "tiny"),
    ]
    assert all(a.ms >= 0 and a.scores.shape == (4,) for a in answers)


def test_no_request_carries_more_rows_than_the_server_allows(client, fake):
    """Nine rows go in requests of 4, 4 and 1; with rows_per_request=2 in five."""
    rows = [row(i % 4, 0.9) for i in range(9)]

    answers = client.infer(rows)
    sizes = [len(call.arrays["FRAME"]) for call in fake.inferences]
    again = client.infer(rows, rows_per_request=2)

    assert sizes == [4, 4, 1]
    assert [a.label for a in answers] == [a.label for a in again] == [i % 4 for i in range(9)]
    assert len(fake.inferences) == 3 + 5


def test_an_array_of_rows_is_rows(client):
    """As arrays are handed around; no rows is no answers."""
    assert [a.label for a in client.infer(np.array([row(1, 1), row(2, 1)]))] == [1, 2]
    assert client.infer([]) == []


def test_the_choice_goes_with_every_request(client, fake):
    """And what is not chosen is not sent."""
    choice = {"point": "fast", "min_tier": 1, "max_tier": 1, "deadline_ms": 2000}
    client.infer([row(1, 0.9)], **choice, scores=False)
    client.infer([row(1, 0.9)])

    first, second = fake.inferences
    assert first.parameters == {
        "cascade_point": "fast",
        "cascade_min_tier": 1,
        "cascade_max_tier": 1,
        "cascade_deadline_ms": "2000.0",
    }
    assert "SCORES" not in first.outputs
    assert second.parameters == {}


def test_without_scores_there_are_none(client):
    """They are not fetched."""
    assert client.infer([row(1, 0.9)], scores=False)[0].scores is None


def test_an_answer_of_another_tier_than_usual_says_so(client, fake):
    """A cascade that was built before there was such an output is not asked for it."""
    assert client.infer([row(1, 0.1)])[0].degraded is None
    fake.full_failed = True
    (answer,) = client.infer([row(1, 0.1)])
    assert (answer.tier, answer.degraded) == (0, "tier")

    old = fake.models["pitch"]
    outputs = tuple(port for port in old.outputs if port.name != "DEGRADED")
    fake.models["pitch"] = dataclasses.replace(old, outputs=outputs)
    again = CascadeClient("here", "pitch", transport=fake)
    assert again.infer([row(1, 0.1)])[0].degraded is None
    assert "DEGRADED" not in fake.inferences[-1].outputs


def test_pictures_are_sent_as_bytes(tmp_path):
    """The input of the ensemble says what a row is."""
    fake = FakeCascade(port=Port("IMAGE", "BYTES", (1,)))
    client = CascadeClient("here", "pitch", transport=fake)
    (tmp_path / "a.jpg").write_bytes(b"12345")

    answers = client.infer([b"123", tmp_path / "a.jpg"])

    assert [a.label for a in answers] == [3, 1]
    assert fake.inferences[0].arrays["IMAGE"].tolist() == [[b"123"], [b"12345"]]


def test_the_refused_row_is_named(client):
    """Its mates are sent again alone to find it."""
    rows = [row(i % 4, 0.9) for i in range(6)]
    rows[5] = row(0, 0.9, np.nan)

    with pytest.raises(RequestError, match=r"rows\[5\]: input FRAME: got NaN"):
        client.infer(rows)


def test_a_wrong_point_is_not_blamed_on_a_row(client):
    """Refused with every row alike: the router's words, once."""
    with pytest.raises(RequestError, match="operating point 'fats' is unknown") as caught:
        client.infer([row(1, 0.9)], point="fats")

    assert caught.value.hint == "did you mean 'fast'?"


@pytest.mark.parametrize("error", [BusyError("full"), TierError("broke"), NoAnswerError("late")])
def test_what_is_not_the_rows_fault_is_raised_as_it_is(client, fake, error):
    """And nothing is sent again."""
    fake.fail = [error]

    with pytest.raises(type(error), match=error.message):
        client.infer([row(1, 0.9)] * 3)
    assert len(fake.inferences) == 1


def test_a_wrong_cascade_lists_what_the_server_has(fake):
    """With the nearest name."""
    client = CascadeClient("here", "pich", transport=fake)

    for ask in (lambda: client.infer([row(1, 0.9)]), client.status, client.policy):
        with pytest.raises(RequestError, match=r"no 'pich'; it has cascades: pitch") as caught:
            ask()
        assert caught.value.hint == "did you mean 'pitch'?"


def test_a_cascade_that_is_not_loaded_is_not_ready(client, fake):
    """With what the server says about it."""
    fake.down.add("pitch")

    with pytest.raises(NotReadyError, match="pitch: not ready: it fell over"):
        client.infer([row(1, 0.9)])


def test_answers_do_not_need_the_control_model(client, fake):
    """Without it they have numbers for names."""
    fake.down.add("pitch_control")

    (answer,) = client.infer([row(1, 0.9)])

    assert (answer.label, answer.label_name, answer.tier_name) == (1, None, "tier 0")


def test_a_model_that_is_no_cascade_is_said_to_be_none(fake):
    """An expert answers with logits."""
    client = CascadeClient("here", "pitch_tiny", transport=fake)

    with pytest.raises(ServerError, match="pitch_tiny: the reply is no cascade's"):
        client.infer([row(1, 0.9)])


def test_policy_is_what_the_router_decides_by(client):
    """With the default in force, the manifest and the names."""
    served = client.policy()

    assert served.policy.point_names == ["fast", "sure"]
    assert served.default_point == "sure"
    assert served.names.labels == ("do", "re", "mi", "fa")
    assert served.as_json()["manifest"] == {"built": "now"}


def test_status_shows_every_part(client):
    """Roles, versions, readiness, tiers and points."""
    status = client.status()

    assert status.ready
    assert status.server == "triton 2.51.0"
    assert [(p.model, p.role) for p in status.parts] == [
        ("pitch", "ensemble"),
        ("pitch_router", "router"),
        ("pitch_control", "control"),
        ("pitch_full", "expert"),
        ("pitch_tiny", "expert"),
    ]
    assert [(t.name, t.digest, t.cost_ms) for t in status.tiers] == [
        ("tiny", "sha256:0", 2.0),
        ("full", "sha256:1", None),
    ]
    assert [(p["name"], p["default"], p["certified"]) for p in status.as_json()["points"]] == [
        ("fast", False, False),
        ("sure", True, True),
    ]


@pytest.mark.parametrize("model", ["pitch", "pitch_router", "pitch_control", "pitch_tiny"])
def test_status_reports_a_part_that_is_down(client, fake, model):
    """It does not raise: it is for looking."""
    fake.down.add(model)
    status = client.status()

    assert not status.ready
    assert [(p.model, p.why) for p in status.parts if not p.ready] == [(model, "it fell over")]


def test_an_expert_that_the_server_lacks_is_a_part_that_is_not_ready(client, fake):
    """The policy names it."""
    del fake.models["pitch_full"]
    status = client.status()

    assert [(p.model, p.role) for p in status.parts if not p.ready] == [("pitch_full", "expert")]


def test_a_model_that_is_tried_beside_a_cascade_is_no_part_of_it(client, fake):
    """A deployment loads it; nor is one of another cascade whose name begins alike."""
    for model in ("pitch_medium", "pitch_two_router"):
        fake.models[model] = fake.models["pitch_full"]
        fake.down.add(model)

    client.wait_ready(0)
    assert [p.model for p in client.status().parts if p.role == "expert"] == [
        "pitch_full",
        "pitch_tiny",
    ]


def test_ready_means_that_every_tier_has_answered(client, fake):
    """One row for each tier, alone."""
    client.wait_ready(0)

    assert [
        (c.parameters["cascade_min_tier"], c.parameters["cascade_max_tier"])
        for c in fake.inferences
    ] == [(0, 0), (1, 1)]


def test_waiting_looks_again_until_all_is_ready(fake):
    """First a part is down, then a tier fails, then all is well."""
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        fake.down.clear()

    fake.down.add("pitch_tiny")
    fake.fail = [TierError("still loading")]
    CascadeClient("here", "pitch", transport=fake, sleep=sleep).wait_ready(60)

    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("down", "fail", "said"),
    [
        ({"pitch_tiny"}, [], "expert pitch_tiny is not ready: it fell over"),
        (set(), [TierError("stub is dead")], "stub is dead"),
    ],
)
def test_waiting_too_long_says_what_was_missing(client, fake, down, fail, said):
    """A dead process counts, though the server calls the model ready."""
    fake.down, fake.fail = down, fail

    with pytest.raises(NoAnswerError, match=rf"not ready after 0 s: .*{said}"):
        client.wait_ready(0)


def test_waiting_for_a_cascade_that_is_not_there_ends_at_once(fake):
    """No patience brings it."""
    with pytest.raises(RequestError, match="no 'other'"):
        CascadeClient("here", "other", transport=fake).wait_ready(60)


def test_the_canary_fits_any_input():
    """A picture that any decoder reads, or numbers of the right shape."""
    from io import BytesIO

    from PIL import Image

    fake = FakeCascade(port=Port("IMAGE", "BYTES", (1,)))
    CascadeClient("here", "pitch", transport=fake).wait_ready(0)
    sent = fake.inferences[0].arrays["IMAGE"]

    assert sent.shape == (1, 1)
    picture = Image.open(BytesIO(sent[0, 0]))
    picture.load()
    assert (picture.size, picture.getpixel((3, 3))) == ((8, 8), 128)


def test_both_clients_hold_the_same_conversation():
    """Same calls, same answers, same errors."""
    rows = [row(2, 0.9), row(1, 0.1), row(3, 0.5), row(0, 0.2), row(1, 0.3)]

    async def shared(fake):
        async with AsyncCascadeClient("here", "pitch", transport=AsyncFake(fake)) as client:
            await client.wait_ready(0)
            answers = await client.infer(rows, point="fast")
            await client.policy()
            with pytest.raises(RequestError):
                await client.infer(rows, point="none")
            return answers, await client.status(), await client.spec()

    def alone(fake):
        with CascadeClient("here", "pitch", transport=fake) as client:
            client.wait_ready(0)
            answers = client.infer(rows, point="fast")
            client.policy()
            with pytest.raises(RequestError):
                client.infer(rows, point="none")
            return answers, client.status(), client.spec()

    one, two = FakeCascade(), FakeCascade()
    (answers, *rest), (others, *other_rest) = alone(one), asyncio.run(shared(two))

    assert [a.as_json(2) | {"ms": 0} for a in answers] == [a.as_json(2) | {"ms": 0} for a in others]
    assert rest == other_rest
    assert [_plain(c) for c in one.calls] == [_plain(c) for c in two.calls]


def _plain(call):
    if not isinstance(call, Infer):
        return call
    return call.model, {k: v.tolist() for k, v in call.arrays.items()}, dict(call.parameters)


def test_many_calls_share_the_wait():
    """That is what the asynchronous client is for."""

    async def many():
        transport = AsyncFake(FakeCascade(), service_s=0.001)
        client = AsyncCascadeClient("here", "pitch", transport=transport)
        await client.infer([row(0, 1)])
        answers = await asyncio.gather(*(client.infer([row(i, 1)]) for i in range(4)))
        return [a[0].label for a in answers], transport.most_at_once

    assert asyncio.run(many()) == ([0, 1, 2, 3], 4)
