"""The blocking HTTP transport: Triton's HTTP messages over urllib3."""

from __future__ import annotations

from typing import TypeVar, cast

import urllib3

from .address import Address
from .calls import Call
from .faults import silent, unreachable
from .rest import HttpMessage, HttpReply, decode, encode

__all__ = ["HttpTransport"]

T = TypeVar("T")

_MOST_IDLE = 256  # connections kept for the next call; more threads open, and close, their own


class HttpTransport:
    """Blocking HTTP; keeps connections open and may be used from several threads.

    A pool of one server's connections reads no proxy from the environment.

    Args:
        address: The server.
        timeout_s: Longest wait where the call names none.
        key: For guarded servers.
    """

    def __init__(self, address: Address, timeout_s: float, key: str | None = None) -> None:
        self._address = address
        self._key = key
        self._timeout_s = timeout_s
        self._pool = urllib3.HTTPConnectionPool(
            address.host, address.port, maxsize=_MOST_IDLE, block=False
        )

    def encode(self, call: Call[T]) -> Call[T]:
        """Write the request now."""
        return cast("Call[T]", encode(call, self._timeout_s))

    def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        message = encode(call, self._timeout_s)
        where = str(self._address)
        try:
            reply = self._exchange(message)
        except urllib3.exceptions.NewConnectionError as exc:  # to urllib3 a kind of timeout
            raise unreachable(where, _reason(exc)) from exc
        except urllib3.exceptions.TimeoutError as exc:
            raise silent(where) from exc
        except urllib3.exceptions.HTTPError as exc:
            raise unreachable(where, _reason(exc)) from exc
        return cast("T", decode(message, reply, where))

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _exchange(self, message: HttpMessage) -> HttpReply:
        response = self._pool.urlopen(
            message.method,
            message.path,
            message.body or None,
            message.headers_with(self._key),
            retries=False,  # nor redirects; a connection found closed is replaced all the same
            timeout=urllib3.Timeout(total=message.timeout_s),
        )
        return HttpReply(response.status, response.headers, response.data)


def _reason(exc: BaseException) -> str:
    """Say what the operating system or the parser said, without urllib3's wrapping."""
    inner = exc.__context__ or exc
    return str(inner) or type(inner).__name__
