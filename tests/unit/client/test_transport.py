"""Every transport carries every call and its reply, and turns every failure into ours."""

import asyncio
import socket
import threading

import numpy as np
import pytest
from fake_cascade import row
from fake_wire import serve_grpc, serve_http

from cascade_client.calls import (
    Call,
    Counts,
    Index,
    IndexEntry,
    Infer,
    ModelConfig,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerName,
    ServerReady,
    Statistics,
)
from cascade_client.transport import connect, connect_async, connect_load
from cascade_router.errors import (
    BusyError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    ServerError,
    TierError,
)

KINDS = ["grpc", "grpc async", "grpc load", "http", "http async"]


def send_all(kind, url, *calls):
    """Send calls over one transport; returns replies and errors in their order."""
    if kind in ("grpc", "http"):
        transport = connect(url, timeout_s=5)
        try:
            return [_outcome(transport.send, call) for call in calls]
        finally:
            transport.close()

    async def talk():
        transport = (connect_load if kind.endswith("load") else connect_async)(url, timeout_s=5)
        try:
            return [await _async_outcome(transport.send, call) for call in calls]
        finally:
            await transport.close()

    return asyncio.run(talk())


def _outcome(send, call):
    try:
        return send(call)
    except Exception as exc:  # noqa: BLE001  # the test looks at it
        return exc


async def _async_outcome(send, call):
    try:
        return await send(call)
    except Exception as exc:  # noqa: BLE001  # the test looks at it
        return exc


@pytest.fixture(params=KINDS)
def talk(request, fake):
    """A function that sends calls to the fake cascade over one kind of transport."""
    serve = serve_grpc if request.param.startswith("grpc") else serve_http
    with serve(fake) as url:
        yield lambda *calls: send_all(request.param, url, *calls)


def infer(rows, parameters=None, outputs=(), model="pitch"):
    return Infer(model, {"FRAME": np.stack(rows)}, parameters or {}, outputs)


def test_questions_about_server_and_models(talk, fake):
    """The reply is the same whatever carried it."""
    fake.down.add("pitch_tiny")
    calls = (
        ServerLive(),
        ServerReady(),
        ServerMetadata(),
        ModelReady("pitch"),
        ModelReady("pitch_tiny"),
        ModelReady("nobody"),
        ModelConfig("pitch"),
        Statistics("pitch"),
    )

    assert talk(*calls) == [
        True,
        False,
        ServerName("triton", "2.51.0"),
        True,
        False,
        False,
        fake.models["pitch"],
        [Counts("1", 7, 2, 3, 6.0, 8.0)],
    ]


def test_the_repository_index(talk, fake):
    """Every model with version, state and reason."""
    fake.down.add("pitch_full")
    (entries,) = talk(Index())

    assert [entry.name for entry in entries] == sorted(fake.models)
    assert entries[2] == IndexEntry("pitch_full", "1", "UNAVAILABLE", "it fell over")


def test_an_inference_carries_arrays_parameters_and_wanted_outputs(talk, fake):
    """Text, whole, truth and number arrive as what they are."""
    parameters = {"cascade_point": "fast", "cascade_min_tier": 1, "cascade_x": True, "y": 0.5}
    call = infer([row(2, 0.5), row(1, 0.1)], parameters, ("LABEL", "TIER"))

    (reply,) = talk(call)
    arrived = fake.inferences[0]

    assert {name: array.tolist() for name, array in reply.items()} == {
        "LABEL": [[2], [1]],
        "TIER": [[1], [1]],
    }
    assert arrived.parameters == parameters
    assert {k: type(v) for k, v in arrived.parameters.items()} == {
        k: type(v) for k, v in parameters.items()
    }
    np.testing.assert_array_equal(arrived.arrays["FRAME"], call.arrays["FRAME"])


def test_all_outputs_come_where_none_is_named(talk):
    """With their dtypes and shapes."""
    (reply,) = talk(infer([row(2, 0.5)]))

    assert {name: (a.dtype.name, a.shape) for name, a in reply.items()} == {
        "SCORES": ("float32", (1, 4)),
        "LABEL": ("int32", (1, 1)),
        "CONFIDENCE": ("float32", (1, 1)),
        "TIER": ("int32", (1, 1)),
        "DEGRADED": ("int32", (1, 1)),
    }


def test_a_request_larger_than_any_window_arrives(talk, fake):
    """Flow control holds it back and lets it through: 12 MB in, in order."""
    big = np.random.default_rng(0).random((4, 1_000_000, 3), dtype=np.float32)[:, :250_000]
    big[:, 0, :] = [3, 1, 0]
    call = Infer("pitch_tiny", {"FRAME": big.reshape(4, -1)})

    (reply,) = talk(call)

    np.testing.assert_array_equal(fake.inferences[0].arrays["FRAME"], call.arrays["FRAME"])
    assert reply["LOGITS"].argmax(axis=1).tolist() == [3, 3, 3, 3]


def test_failures_are_ours_and_the_connection_goes_on(talk, fake):
    """Message and hint arrive; the next call on the same connection is answered."""
    fake.fail = [
        RequestError("bad row", hint="another one"),
        BusyError("no place"),
        TierError("expert broke"),
    ]
    call = infer([row(2, 0.5)])

    request, busy, tier, unknown, reply = talk(call, call, call, ModelConfig("nobody"), call)

    assert (type(request), request.message, request.hint) == (
        RequestError,
        "bad row",
        "another one",
    )
    assert (type(busy), busy.message) == (BusyError, "no place")
    assert (type(tier), tier.message) == (TierError, "expert broke")
    assert type(unknown) is RequestError
    assert reply["LABEL"].tolist() == [[2]]


def test_a_model_that_is_down_is_not_ready(talk, fake):
    """And not busy, though the code is the same."""
    fake.down.add("pitch")

    assert [type(e) for e in talk(infer([row(0, 0)]))] == [NotReadyError]


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_connection_is_no_timeout(kind):
    """Nobody listens: said at once, with the address."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"{kind.split()[0]}://127.0.0.1:{port}"

    (exc,) = send_all(kind, url, ServerLive())

    assert type(exc) is ServerError
    assert f"127.0.0.1:{port}: no connection" in exc.message
    assert exc.__cause__ is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_nothing_is_a_timeout(kind):
    """Connected, asked, and no answer within the call's own limit."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"{kind.split()[0]}://127.0.0.1:{deaf.getsockname()[1]}"
        call = Infer("pitch", {"FRAME": np.zeros((1, 3), np.float32)}, timeout_s=0.05)

        (exc,) = send_all(kind, url, call)

    assert type(exc) is NoAnswerError
    assert exc.__cause__ is not None


@pytest.mark.parametrize("kind", ["http", "http async", "grpc load"])
@pytest.mark.parametrize("speech", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\0" * 64, b""])
def test_a_server_of_another_kind_is_named(kind, speech):
    """Whatever it says, the caller gets one of our errors."""
    with socket.create_server(("127.0.0.1", 0)) as other:

        def speak():
            connection, _ = other.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(speech)

        thread = threading.Thread(target=speak)
        thread.start()
        url = f"{kind.split()[0]}://127.0.0.1:{other.getsockname()[1]}"
        (exc,) = send_all(kind, url, ServerMetadata())
        thread.join()

    assert isinstance(exc, ServerError)


def test_encoding_ahead_changes_nothing(talk, fake):
    """An encoded call is sent like the call."""
    call = infer([row(1, 0.9)])
    transport = connect("localhost:1")
    encoded = transport.encode(call)

    assert transport.encode(encoded) is encoded
    transport.close()
    assert talk(call, call)[0].keys() == talk(call)[0].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_nobody_knows_is_our_own_bug(kind):
    """It keeps its traceback."""
    (exc,) = send_all(kind, f"{kind.split()[0]}://127.0.0.1:1", Call())

    assert type(exc) is TypeError
