"""Foreign failures in our words: the one place that decides what a status means.

Triton speaks through gRPC status codes and HTTP codes, and says more in its text than in its
code: a full queue deep in an ensemble arrives as INTERNAL before server 25.04.
"""

from __future__ import annotations

import re

from cascade_router.errors import (
    AccessError,
    BusyError,
    CascadeError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    ServerError,
    TierError,
)

__all__ = ["from_grpc", "from_http", "silent", "unreachable"]

_REQUEST = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
}
_ACCESS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
_MODEL = {"INTERNAL", "UNKNOWN"}

# Made by the gRPC library itself, not sent by a server.
_NO_CONNECTION = re.compile(
    r"failed to connect|connection (refused|reset|closed|timed out)|socket closed|broken pipe"
    r"|errors resolving|dns resolution|goaway|recvmsg|sendmsg|transport closed|stream removed"
    r"|no route|unreachable|keepalive|channel (closed|is closed)|cancelling all calls",
    re.IGNORECASE,
)
_NOT_READY = re.compile(
    r"not ready|not at ready state|no available versions|is not available|shutting down",
    re.IGNORECASE,
)
# A guarded interface: gRPC gives it the code of a server that is busy.
_RESTRICTED = re.compile(r"this (protocol|api) is restricted", re.IGNORECASE)
_HOLD_A_KEY = "give the server's key file: --keys FILE"
_BUSY = re.compile(r"exceeds maximum queue size|queue is full", re.IGNORECASE)
_EXPIRED = re.compile(r"request timeout expired", re.IGNORECASE)

# Wrapping that Triton and its Python backend put round the sentence that matters.
_WRAPPING = re.compile(
    r"^(\[request id: [^\]]*\] |in ensemble '[^']*', "
    r"|Failed to process the request\(s\) for model(?: instance)? '[^']*', message: )+"
)
_MAX_HTTP_BODY = 500


def from_grpc(code: str, text: str, *, where: str) -> CascadeError:
    """Translate a gRPC failure.

    Args:
        code: Name of the status code, such as ``UNAVAILABLE``.
        text: Its details.
        where: Address of the server.
    """
    message, hint = _sentence(text, code)
    if code == "DEADLINE_EXCEEDED":
        return silent(where)
    if code in _ACCESS or _RESTRICTED.search(message):
        return AccessError(f"{where}: refused us: {message}", hint=_HOLD_A_KEY)
    if code in _REQUEST:
        return _not_ready(message) or RequestError(message, hint=hint)
    if code == "UNAVAILABLE" and _NO_CONNECTION.search(message):
        return unreachable(where, message)
    if code in {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}:
        return _not_ready(message) or _busy(message, hint)
    if code in _MODEL:
        return _inside(message, hint)
    return ServerError(f"{where}: {code}: {message}", hint=hint or _IS_IT_TRITON)


def from_http(code: int, text: str, *, where: str) -> CascadeError:
    """Translate an HTTP failure.

    Args:
        code: Status, not 2xx.
        text: Triton's message, or the start of whatever came.
        where: Address of the server.
    """
    message, hint = _sentence(text[:_MAX_HTTP_BODY], f"HTTP {code}")
    if code in {401, 403}:
        return AccessError(f"{where}: refused us: {message}", hint=_HOLD_A_KEY)
    if code in {408, 504}:
        return silent(where)
    if code in {429, 503}:
        return _not_ready(message) or _busy(message, hint)
    if 400 <= code < 500:
        return _not_ready(message) or RequestError(message, hint=hint)
    if code == 500:
        return _inside(message, hint)
    return ServerError(f"{where}: HTTP {code}: {message}", hint=hint or _IS_IT_TRITON)


def unreachable(where: str, text: str) -> ServerError:
    """Say that nobody listens there, or that the connection broke."""
    return ServerError(
        f"{where}: no connection: {text}",
        hint="is the server running (`make serve`), and is --url right?",
    )


def silent(where: str) -> NoAnswerError:
    """Say that no answer came in time."""
    return NoAnswerError(
        f"{where}: no answer in time",
        hint="the server may be overloaded; try again, or allow a longer timeout",
    )


_IS_IT_TRITON = "is --url the address of a Triton server, and its port that of this protocol?"


def _sentence(text: str, otherwise: str) -> tuple[str, str | None]:
    message, _, hint = text.strip().partition("\nhelp: ")
    return _WRAPPING.sub("", message) or otherwise, hint or None


def _not_ready(message: str) -> NotReadyError | None:
    if not _NOT_READY.search(message):
        return None
    return NotReadyError(message, hint="`cascade-client status` shows what is missing")


def _busy(message: str, hint: str | None) -> BusyError:
    return BusyError(message, hint=hint or "the server is at its limit; try again in a moment")


def _inside(message: str, hint: str | None) -> CascadeError:
    if _BUSY.search(message):
        return _busy(message, hint)
    if _EXPIRED.search(message):
        return NoAnswerError(
            message, hint=hint or "the request waited too long in the server's queue"
        )
    found = _not_ready(message)
    return found or TierError(message, hint=hint or "the server's log says more")
