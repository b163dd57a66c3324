"""The asynchronous HTTP transport: Triton's HTTP messages over aiohttp."""

from __future__ import annotations

import io
from typing import TypeVar, cast

import aiohttp

from .address import Address
from .calls import Call
from .faults import silent, unreachable
from .rest import HttpMessage, HttpReply, decode, encode

__all__ = ["AsyncHttpTransport"]

T = TypeVar("T")

# A process may have 1024 descriptors by default, and the load generator's `select` takes no more.
# Requests beyond wait for a connection, and the wait counts in their time.
_MOST_CONNECTIONS = 900


class AsyncHttpTransport:
    """HTTP whose waits are shared by one event loop; keeps connections open.

    Args:
        address: The server.
        timeout_s: Longest wait where the call names none.
        key: For guarded servers.
    """

    def __init__(self, address: Address, timeout_s: float, key: str | None = None) -> None:
        self._address = address
        self._key = key
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    def encode(self, call: Call[T]) -> Call[T]:
        """Write the request now."""
        return cast("Call[T]", encode(call, self._timeout_s))

    async def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        message = encode(call, self._timeout_s)
        where = str(self._address)
        try:
            reply = await self._exchange(message)
        except TimeoutError as exc:
            raise silent(where) from exc
        except (aiohttp.ClientError, OSError, UnicodeError) as exc:  # last: no name for a machine
            raise unreachable(where, _reason(exc)) from exc
        return cast("T", decode(message, reply, where))

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, message: HttpMessage) -> HttpReply:
        if self._session is None:
            self._session = _open()  # not when made: a session belongs to the running loop
        async with self._session.request(
            message.method,
            f"{self._address}{message.path}",
            # aiohttp warns of large plain bytes, which it would hand over in one piece.
            data=io.BytesIO(message.body) if message.body else None,
            headers=message.headers_with(self._key),
            timeout=aiohttp.ClientTimeout(total=message.timeout_s),
            allow_redirects=False,
        ) as response:
            return HttpReply(response.status, response.headers, await response.read())


def _open() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_MOST_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept-Encoding": "identity"},  # Triton would compress every answer
        trust_env=False,
    )


def _reason(exc: BaseException) -> str:
    """Say what the operating system or the parser said, without aiohttp's wrapping."""
    inner = exc.__cause__ or exc
    return " ".join(str(inner).split()) or type(inner).__name__
