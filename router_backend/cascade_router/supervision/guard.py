"""Proof that a server asks for the key: it is asked without."""

from __future__ import annotations

import contextlib
import functools
import http.client
import time
from collections.abc import Callable

from cascade_router.errors import ServerError

from .triton import Triton

__all__ = ["check_guard", "http_status"]

_RESTRICTED = "restricted"  # in Triton's words, where it wants a key
_FORBIDDEN = 403
_LIMIT_S = 20.0
_CALL_S = 3.0
_PAUSE_S = 0.2


def check_guard(
    open_plain: Callable[[], Triton],
    open_keyed: Callable[[], Triton],
    status: Callable[[], int] | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make sure that a server's model control wants the key on every port, and takes ours.

    What cannot be told, because a call gets no answer or the server is slow, is asked again for a
    while: no answer is no refusal.

    Args:
        open_plain: Connects without a key.
        open_keyed: Connects with ours.
        status: HTTP status of a request for model control without a key, 0 for none; None: it
            does not serve HTTP.
        clock: Seconds, monotonic.
        sleep: Waits.

    Raises:
        ServerError: If it does not.
    """
    plain, keyed = open_plain(), open_keyed()
    try:
        checks: list[Callable[[], bool | None]] = [
            functools.partial(_grpc_refuses, plain),
            functools.partial(_grpc_takes, keyed),
        ]
        if status is not None:
            checks.append(functools.partial(_http_refuses, status))
        end = clock() + _LIMIT_S
        for check in checks:
            while (proven := check()) is None and clock() < end:
                sleep(_PAUSE_S)
            if not proven:
                what = "tritonserver does not guard its model control with the key given"
                message = f"cascade-serve: {what}"
                raise ServerError(message, hint="it was stopped; or serve on loopback only")
    finally:
        plain.close()
        keyed.close()


def http_status(host: str, port: int) -> int:
    """Ask for the list of models over HTTP without a key.

    Args:
        host: IPv4 address, or name, of the server.
        port: It.

    Returns:
        The status; 0 where there is no answer.
    """
    connection = http.client.HTTPConnection(host, port, timeout=_CALL_S)
    try:
        connection.request("POST", "/v2/repository/index", body=b"{}")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        with contextlib.suppress(OSError):
            connection.close()


def _grpc_refuses(plain: Triton) -> bool | None:
    """Say whether a call without a key is refused; None: it was not answered."""
    index = plain.index()
    if not isinstance(index, str):
        return False
    return True if _RESTRICTED in index else None


def _grpc_takes(keyed: Triton) -> bool | None:
    """Say whether a call with the key is not refused; None: it was not answered."""
    index = keyed.index()
    if not isinstance(index, str):
        return True
    return False if _RESTRICTED in index else None


def _http_refuses(status: Callable[[], int]) -> bool | None:
    found = status()
    return None if found == 0 else found == _FORBIDDEN
