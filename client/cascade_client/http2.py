"""Unary gRPC calls over one HTTP/2 connection, as lean as Python allows.

For the load generator alone (`lean`); `CascadeClient` uses plain gRPC. `grpc.aio` spends about as
long on a small request as Triton does, and both share the cores: with 32 and 64 under way on two
cores the load generator reached 0.4 to 0.85 of perf_analyzer's throughput over it, 0.99 to 1.26
over this. Requests of one turn of the event loop leave in one write, replies that arrive together
are taken in together. It speaks the subset of RFC 9113 that a gRPC server needs, over plain TCP.
The header table is set to size 0, so a header block means the same anywhere; Huffman-coded
fields (which gRPC servers do not send, but proxies may) are not read: go through a proxy with the
ordinary transport.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

__all__ = ["Connection", "Outcome", "header_block"]

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_PRIORITY = 0x20

_MOST = 2**31 - 1
_DEFAULT_WINDOW = 65535
_RENEW_AT = 2**30  # bytes taken in before the server may send as many again

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_OUR_SETTINGS = struct.pack(">HIHIHI", 0x1, 0, 0x2, 0, 0x4, _MOST)

_OK_TRAILERS = b"@\x0bgrpc-status\x010"  # what almost every reply of Triton ends with


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended.

    Attributes:
        status: gRPC's status code, 0 = OK.
        text: Its details.
        payload: The serialised reply; empty unless OK.
    """

    status: int
    text: str
    payload: bytes


@dataclass(slots=True)
class _Stream:
    """One call under way."""

    done: asyncio.Future[Outcome]
    window: int
    body: bytearray = field(default_factory=bytearray)
    headers: bytearray = field(default_factory=bytearray)
    unsent: bytes = b""
    ends: bool = False


def header_block(path: str, authority: str) -> bytes:
    """Write the request headers of a gRPC method; every call of the method shares them."""
    fields = {
        b":path": path.encode(),
        b":authority": authority.encode(),
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    literal = b"".join(
        b"\0" + _integer(len(name), 7) + name + _integer(len(value), 7) + value
        for name, value in fields.items()
    )
    return b"\x83\x86" + literal  # :method POST, :scheme http


class Connection(asyncio.Protocol):
    """An open connection; make it with ``loop.create_connection``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1
        self._out: list[bytes] = []
        self._in = b""
        self._taken = 0
        self._window = self._stream_window = _DEFAULT_WINDOW
        self._frame_size = 16384
        self._lost: Exception | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def usable(self) -> bool:
        """Whether a call may be started."""
        return self._lost is None and self._next_id < _MOST

    async def call(self, headers: bytes, payload: bytes, timeout_s: float) -> Outcome:
        """Send a request and wait for its reply.

        Args:
            headers: From `header_block`.
            payload: The serialised request.
            timeout_s: Longest wait.

        Raises:
            TimeoutError: If no reply came in time.
            ConnectionError: If the connection broke.
        """
        if self._lost is not None:
            raise self._lost
        number, self._next_id = self._next_id, self._next_id + 2
        stream = _Stream(self._loop.create_future(), self._stream_window)
        self._streams[number] = stream
        timer = self._loop.call_later(timeout_s, self._expire, number)
        self._write(_frame(_HEADERS, _END_HEADERS, number, headers))
        stream.unsent = b"\0" + len(payload).to_bytes(4, "big") + payload
        self._push(number, stream)
        try:
            return await stream.done
        finally:
            timer.cancel()
            if self._streams.pop(number, None) is not None:  # the caller gave up
                self._write(_frame(_RST, 0, number, b"\0\0\0\x08"))

    def close(self) -> None:
        """Close; calls under way fail."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        self._transport = transport = cast("asyncio.Transport", transport)
        window = struct.pack(">I", _MOST - _DEFAULT_WINDOW)
        transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, _OUR_SETTINGS) + _frame(_WINDOW, 0, 0, window)
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._fail(exc or ConnectionResetError("connection closed by the server"))

    def data_received(self, data: bytes) -> None:
        """Take in whole frames; keep the rest for the next time."""
        data = self._in + data if self._in else data
        at, end = 0, len(data)
        while end - at >= 9:
            stop = at + 9 + (data[at] << 16 | data[at + 1] << 8 | data[at + 2])
            if stop > end:
                break
            number = int.from_bytes(data[at + 5 : at + 9], "big") & _MOST
            try:
                self._take(data[at + 3], data[at + 4], number, data[at + 9 : stop])
            except (ValueError, IndexError, struct.error) as exc:
                self._fail(ConnectionError(f"the reply is not gRPC over HTTP/2: {exc}"))
                self.close()
                return
            at = stop
        self._in = data[at:]

    def _take(self, kind: int, flags: int, number: int, body: bytes) -> None:
        stream = self._streams.get(number)
        if kind == _DATA:
            self._renew(len(body))
            if stream is not None:
                stream.body += _unpadded(body, flags, 0)
                if flags & _END_STREAM:
                    self._finish(number, stream, b"")
        elif kind in (_HEADERS, _CONTINUATION):
            if stream is not None:
                self._take_headers(number, stream, kind, flags, body)
        elif kind == _WINDOW:
            self._widen(number, stream, int.from_bytes(body, "big") & _MOST)
        elif kind == _SETTINGS and not flags & _ACK:
            self._settle(body)
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, body))
        elif kind == _RST and stream is not None:
            code = int.from_bytes(body, "big")
            self._resolve(number, stream, Outcome(14, f"stream reset by the server ({code})", b""))
        elif kind == _GOAWAY:
            self._go_away(int.from_bytes(body[:4], "big") & _MOST)

    def _take_headers(
        self, number: int, stream: _Stream, kind: int, flags: int, body: bytes
    ) -> None:
        if kind == _HEADERS:
            stream.ends = bool(flags & _END_STREAM)
            body = _unpadded(body, flags, 5 if flags & _PRIORITY else 0)
        stream.headers += body
        if flags & _END_HEADERS:
            block, stream.headers = bytes(stream.headers), bytearray()
            if stream.ends:
                self._finish(number, stream, block)

    def _finish(self, number: int, stream: _Stream, trailers: bytes) -> None:
        if trailers == _OK_TRAILERS:
            status, text = 0, ""
        else:
            fields = _fields(trailers)
            status = int(fields.get(b"grpc-status", b"2"))
            text = unquote(fields.get(b"grpc-message", b"").decode("latin-1"))
        body = stream.body
        if status == 0 and (len(body) < 5 or body[0] or len(body) - 5 != int.from_bytes(body[1:5])):
            status, text = 13, "the reply is no single uncompressed gRPC message"
        self._resolve(number, stream, Outcome(status, text, b"" if status else bytes(body[5:])))

    def _resolve(self, number: int, stream: _Stream, outcome: Outcome) -> None:
        del self._streams[number]
        if not stream.done.done():
            stream.done.set_result(outcome)

    def _expire(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None and not stream.done.done():
            stream.done.set_exception(TimeoutError())

    def _fail(self, exc: Exception) -> None:
        self._lost = self._lost or exc
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if not stream.done.done():
                stream.done.set_exception(exc)

    def _go_away(self, last: int) -> None:
        self._lost = ConnectionResetError("the server is shutting down")
        for number in [n for n in self._streams if n > last]:
            stream = self._streams.pop(number)
            if not stream.done.done():
                stream.done.set_exception(self._lost)

    def _settle(self, body: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", body):
            if key == 0x4:
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
            elif key == 0x5:
                self._frame_size = value
        self._write(_frame(_SETTINGS, _ACK, 0, b""))
        self._push_all()

    def _widen(self, number: int, stream: _Stream | None, more: int) -> None:
        if number == 0:
            self._window += more
            self._push_all()
        elif stream is not None:
            stream.window += more
            self._push(number, stream)

    def _renew(self, n: int) -> None:
        self._taken += n
        if self._taken >= _RENEW_AT:
            self._write(_frame(_WINDOW, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0

    def _push_all(self) -> None:
        for number, stream in list(self._streams.items()):
            self._push(number, stream)

    def _push(self, number: int, stream: _Stream) -> None:
        """Send of a request what the server's windows allow."""
        while stream.unsent:
            n = min(len(stream.unsent), self._window, stream.window, self._frame_size)
            if n <= 0:
                return
            part, stream.unsent = stream.unsent[:n], stream.unsent[n:]
            self._window -= n
            stream.window -= n
            self._write(_frame(_DATA, 0 if stream.unsent else _END_STREAM, number, part))

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))


def _frame(kind: int, flags: int, number: int, body: bytes) -> bytes:
    n = len(body)
    return struct.pack(">BHBBI", n >> 16, n & 0xFFFF, kind, flags, number) + body


def _unpadded(body: bytes, flags: int, skip: int) -> bytes:
    if flags & _PADDED:
        return body[1 + skip : len(body) - body[0]]
    return body[skip:] if skip else body


def _integer(value: int, bits: int) -> bytes:
    """Write an HPACK integer (RFC 7541, 5.1) with a zero prefix."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([value])
    out, value = bytearray([most]), value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    most = (1 << bits) - 1
    value, at = block[at] & most, at + 1
    if value < most:
        return value, at
    shift = 0
    while True:
        value += (block[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not block[at - 1] & 128:
            return value, at


def _read_text(block: bytes, at: int) -> tuple[bytes | None, int]:
    coded = block[at] & 128
    n, at = _read_integer(block, at, 7)
    return (None if coded else block[at : at + n]), at + n


def _fields(block: bytes) -> dict[bytes, bytes]:
    """Read the literal fields of a header block; indexed ones say nothing to gRPC."""
    out: dict[bytes, bytes] = {}
    at = 0
    while at < len(block):
        first = block[at]
        if first & 128:  # indexed field
            _, at = _read_integer(block, at, 7)
            continue
        if first & 0xE0 == 0x20:  # size of the dynamic table
            _, at = _read_integer(block, at, 5)
            continue
        index, at = _read_integer(block, at, 6 if first & 64 else 4)
        name: bytes | None = b""
        if index == 0:
            name, at = _read_text(block, at)
        value, at = _read_text(block, at)
        if name is None:
            message = "its headers are Huffman-coded"
            raise ValueError(message)
        if value is not None:
            out[name] = value
    return out
