"""Foreign failures: none is left over, and each lands with the person whose turn it is."""

import http

import grpc
import pytest

from cascade_client.faults import from_grpc, from_http
from cascade_router.errors import (
    AccessError,
    BusyError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    ServerError,
    TierError,
)

GRPC = {
    "CANCELLED": ServerError,
    "UNKNOWN": TierError,
    "INVALID_ARGUMENT": RequestError,
    "DEADLINE_EXCEEDED": NoAnswerError,
    "NOT_FOUND": RequestError,
    "ALREADY_EXISTS": RequestError,
    "PERMISSION_DENIED": AccessError,
    "RESOURCE_EXHAUSTED": BusyError,
    "FAILED_PRECONDITION": RequestError,
    "ABORTED": ServerError,
    "OUT_OF_RANGE": RequestError,
    "UNIMPLEMENTED": ServerError,
    "INTERNAL": TierError,
    "UNAVAILABLE": BusyError,
    "DATA_LOSS": ServerError,
    "UNAUTHENTICATED": AccessError,
}


@pytest.mark.parametrize("code", [c.name for c in grpc.StatusCode if c.name != "OK"])
def test_every_grpc_status_has_its_error(code):
    """A walk over all of gRPC's codes, so that a new one cannot slip through."""
    assert type(from_grpc(code, "it broke", where="here")) is GRPC[code]


@pytest.mark.parametrize("code", [c.value for c in http.HTTPStatus if c.value >= 400])
def test_every_http_status_has_its_error(code):
    """A walk over all failing HTTP codes."""
    special = {
        401: AccessError,
        403: AccessError,
        408: NoAnswerError,
        504: NoAnswerError,
        429: BusyError,
        503: BusyError,
        500: TierError,
    }
    expected = special.get(code, RequestError if code < 500 else ServerError)

    assert type(from_http(code, "it broke", where="here")) is expected


@pytest.mark.parametrize(
    "text",
    [
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: "
        "Failed to connect to remote host: Connection refused",
        "errors resolving no.such.host:1: [field:hostname lookup error]",
        "Socket closed",
        "recvmsg:Connection reset by peer",
    ],
)
def test_a_refused_connection_is_neither_busy_nor_a_timeout(text):
    """gRPC says UNAVAILABLE for all of them; the text tells them apart."""
    found = from_grpc("UNAVAILABLE", text, where="grpc://here:1")

    assert type(found) is ServerError
    assert "grpc://here:1: no connection" in found.message
    assert "running" in found.hint


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Exceeds maximum queue size", BusyError),
        ("Request timeout expired", NoAnswerError),
        ("model 'x' is not ready", NotReadyError),
        ("CUDA out of memory", TierError),
    ],
)
@pytest.mark.parametrize("speak", [from_grpc, from_http])
def test_inside_the_server_the_text_says_more_than_the_code(speak, text, expected):
    """Before server 25.04 all of these arrive as INTERNAL (500)."""
    code = "INTERNAL" if speak is from_grpc else 500

    assert type(speak(code, text, where="here")) is expected


@pytest.mark.parametrize("text", ["Request for unknown model: 'x' has no available versions"])
def test_a_model_that_is_not_loaded_is_not_ready(text):
    """Whatever code it comes under."""
    for found in (
        from_grpc("UNAVAILABLE", text, where=""),
        from_grpc("NOT_FOUND", text, where=""),
        from_http(503, text, where=""),
        from_http(400, text, where=""),
    ):
        assert type(found) is NotReadyError


def test_tritons_wrapping_is_taken_off_and_our_hint_comes_through():
    """The reader gets the router's own two lines back."""
    text = (
        "[request id: <id_unknown>] in ensemble 'imagenet', Failed to process the request(s) for "
        "model 'imagenet_router_0_0', message: cascade_point: no point 'x'\nhelp: say 'fast'"
    )
    found = from_grpc("INVALID_ARGUMENT", text, where="here")

    assert found.message == "cascade_point: no point 'x'"
    assert found.hint == "say 'fast'"


def test_a_page_of_html_does_not_flood_the_terminal():
    """What is not Triton's is cut."""
    assert len(from_http(502, "<html>" + "x" * 9999, where="here").message) < 600
