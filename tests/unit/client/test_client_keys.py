"""A guarded server: the client does what can be done without a key, and sends it where wanted."""

import json

import pytest
from fake_cascade import FakeCascade, row

from cascade_client import CascadeClient
from cascade_client.calls import Index, Infer, ModelReady, as_bytes
from cascade_client.faults import from_grpc
from cascade_client.rest import encode
from cascade_client.transport import GrpcCodec
from cascade_router.errors import AccessError
from cascade_router.keys import HEADER, Keys

KEYS = Keys(control="control-key-0123456789", policy="policy-key-0123456789")
REFUSAL = "This protocol is restricted, expecting header 'triton-grpc-protocol-cascade-key'"


class Guarded(FakeCascade):
    """Lists no models; takes note of commands."""

    def __init__(self):
        super().__init__()
        self.commands = []

    def send(self, call):
        if isinstance(call, Index):
            raise from_grpc("UNAVAILABLE", REFUSAL, where="grpc://here:1")
        if isinstance(call, Infer) and call.model == "pitch_control":
            self.commands.append(json.loads(call.arrays["COMMAND"][0]))
            if self.commands[-1]["do"] == "set":
                return {"REPLY": as_bytes([b'{"was": "sure", "point": "fast"}'])}
        return super().send(call)


@pytest.fixture
def guarded():
    return Guarded()


def test_status_is_pieced_together(guarded):
    """What the cascade is made of is asked model by model; versions stay unknown."""
    status = CascadeClient(cascade="pitch", transport=guarded).status()

    assert status.ready
    roles = {part.model: part.role for part in status.parts}
    assert roles == {
        "pitch": "ensemble",
        "pitch_router": "router",
        "pitch_control": "control",
        "pitch_tiny": "expert",
        "pitch_full": "expert",
    }
    assert {part.versions for part in status.parts} == {()}


@pytest.mark.parametrize("model", ["pitch", "pitch_router", "pitch_control"])
def test_a_part_that_is_down_is_not_overlooked(guarded, model):
    """Though the server does not list it."""
    guarded.down.add(model)

    status = CascadeClient(cascade="pitch", transport=guarded).status()

    assert not status.ready
    assert [part.model for part in status.parts if not part.ready] == [model]


def test_rows_are_answered_without_a_key(guarded):
    """Asking is open."""
    client = CascadeClient(cascade="pitch", transport=guarded)
    client.wait_ready(0)

    assert client.infer([row(2, 0.9)])[0].label == 2


def test_a_cascade_that_is_not_there_is_a_question_of_keys(guarded):
    """Without a list nobody can tell what is there: the error says what would help."""
    with pytest.raises(AccessError, match="is restricted") as caught:
        CascadeClient(cascade="nothing", transport=guarded).status()

    assert "--keys" in str(caught.value)


def test_the_policy_key_goes_with_the_switch_alone(guarded):
    """Not with a look."""
    client = CascadeClient(cascade="pitch", transport=guarded, keys=KEYS)
    client.policy()
    client.set_point("fast", "ann")

    asked = {"do": "set", "point": "fast", "who": "ann", "key": KEYS.policy}
    assert guarded.commands == [{"do": "show"}, asked]


def test_only_guarded_calls_carry_the_control_key():
    """Over HTTP in a header, over gRPC in metadata; rows never do."""
    infer = Infer("pitch", {"FRAME": row(1, 1.0)[None]})
    for call, guarded in ((Index(), True), (ModelReady("pitch"), False), (infer, False)):
        assert (HEADER in encode(call, 1.0).headers_with(KEYS.control)) is guarded
        assert HEADER not in encode(call, 1.0).headers_with(None)
        assert GrpcCodec(1.0).encode(call).guarded is guarded
