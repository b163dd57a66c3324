"""The HTTP transports, blocking and asynchronous, over connections that stay open."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections import deque
from typing import TypeAlias, TypeVar, cast

from .address import Address
from .calls import Call
from .faults import silent, unreachable
from .rest import HttpMessage, HttpReply, decode, encode, head_bytes_of

__all__ = ["AsyncHttpTransport", "HttpTransport"]

T = TypeVar("T")


class HttpTransport:
    """Blocking HTTP; keeps connections open and may be used from several threads.

    Args:
        address: The server.
        timeout_s: Longest wait where the call names none.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._idle: deque[http.client.HTTPConnection] = deque()

    def encode(self, call: Call[T]) -> Call[T]:
        """Write the request now."""
        return cast("Call[T]", encode(call, self._timeout_s))

    def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        message = encode(call, self._timeout_s)
        where = str(self._address)
        try:
            reply = self._exchange(message)
        except TimeoutError as exc:
            raise silent(where) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise unreachable(where, str(exc) or type(exc).__name__) from exc
        return cast("T", decode(message, reply, where))

    def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().close()

    def _exchange(self, message: HttpMessage) -> HttpReply:
        while self._idle:
            connection = self._idle.pop()
            try:
                return self._on(connection, message)
            except (ConnectionError, http.client.BadStatusLine):
                connection.close()  # the server closed it while it was idle
        fresh = http.client.HTTPConnection(self._address.host.strip("[]"), self._address.port)
        return self._on(fresh, message)

    def _on(self, connection: http.client.HTTPConnection, message: HttpMessage) -> HttpReply:
        connection.timeout = message.timeout_s
        if connection.sock is not None:
            connection.sock.settimeout(message.timeout_s)
        try:
            connection.request(message.method, message.path, message.body, dict(message.headers))
            response = connection.getresponse()
            reply = HttpReply(response.status, head_bytes_of(response.headers), response.read())
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return reply


class AsyncHttpTransport:
    """HTTP whose waits are shared by one event loop.

    Written on asyncio's streams: a general HTTP library takes longer over one small request
    than Triton does, and a load generator shares its cores with the server.

    Args:
        address: The server.
        timeout_s: Longest wait where the call names none.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._idle: deque[_Streams] = deque()

    def encode(self, call: Call[T]) -> Call[T]:
        """Write the request now."""
        return cast("Call[T]", encode(call, self._timeout_s))

    async def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        message = encode(call, self._timeout_s)
        where = str(self._address)
        try:
            async with asyncio.timeout(message.timeout_s):
                reply = await self._exchange(message)
        except TimeoutError as exc:
            raise silent(where) from exc
        except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
            raise unreachable(where, str(exc) or type(exc).__name__) from exc
        return cast("T", decode(message, reply, where))

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            _, writer = self._idle.pop()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, message: HttpMessage) -> HttpReply:
        while self._idle:
            streams = self._idle.pop()
            try:
                return await self._on(streams, message)
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # the server closed it while it was idle
        host = self._address.host.strip("[]")
        return await self._on(await asyncio.open_connection(host, self._address.port), message)

    async def _on(self, streams: _Streams, message: HttpMessage) -> HttpReply:
        reader, writer = streams
        try:
            writer.write(message.wire(self._address.netloc))
            await writer.drain()
            reply, keep = await _read_reply(reader)
        except BaseException:
            writer.close()
            raise
        if keep:
            self._idle.append(streams)
        else:
            writer.close()
        return reply


_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _read_reply(reader: asyncio.StreamReader) -> tuple[HttpReply, bool]:
    """Read one HTTP/1.1 response; also say whether the connection may be used again."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    try:
        code = int(first.split(" ", 2)[1])
        length = int(headers.get("content-length", 0))
        head_bytes = head_bytes_of(headers)
    except (ValueError, IndexError) as exc:
        message = f"not an HTTP response: {first[:80]!r}"
        raise EOFError(message) from exc
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(length)
    keep = headers.get("connection", "").lower() != "close"
    return HttpReply(code, head_bytes, body), keep


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    chunks = []
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass  # trailers say nothing to us
    return b"".join(chunks)
