"""Our HTTP/2: frames however they are cut, windows, and a server that takes leave."""

import asyncio
import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_client.http2 import Connection, Outcome, header_block

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1

INITIAL = b"\x88@\x0ccontent-type\x10application/grpc"
TRAILERS = b"@\x0bgrpc-status\x010"


class Wire(asyncio.Transport):
    """Remembers what was written."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data):
        self.written += data

    def is_closing(self):
        return self.closed

    def close(self):
        self.closed = True

    def frames(self):
        """What was written after the preface, as (kind, flags, stream, body)."""
        out, at = [], 24
        while at < len(self.written):
            n = int.from_bytes(self.written[at : at + 3], "big")
            kind, flags, number = struct.unpack_from(">BBI", self.written, at + 3)
            out.append((kind, flags, number, self.written[at + 9 : at + 9 + n]))
            at += 9 + n
        return out


def frame(kind, flags, number, body=b""):
    return len(body).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, number) + body


def message(payload):
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def reply(number, payload):
    return (
        frame(HEADERS, END_HEADERS, number, INITIAL)
        + frame(DATA, 0, number, message(payload))
        + frame(HEADERS, END_HEADERS | END_STREAM, number, TRAILERS)
    )


def converse(*speeches, payloads=(b"ask",), timeout_s=5.0):
    """Send payloads, let the server say its pieces; returns outcomes (or errors) and the wire."""

    async def main():
        connection, wire = Connection(), Wire()
        connection.connection_made(wire)
        headers = header_block("/S/M", "here")
        tasks = [
            asyncio.ensure_future(connection.call(headers, payload, timeout_s))
            for payload in payloads
        ]
        await asyncio.sleep(0)
        for speech in speeches:
            if speech is None:
                connection.connection_lost(None)
            else:
                connection.data_received(speech)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        return outcomes, wire, connection

    return asyncio.run(main())


def test_a_call_is_a_request_and_its_reply():
    """The request goes out as headers and one message that ends the stream."""
    (outcome,), wire, _ = converse(reply(1, b"answer"))

    assert outcome == Outcome(0, "", b"answer")
    assert [(k, f, n) for k, f, n, _ in wire.frames()[2:]] == [
        (HEADERS, END_HEADERS, 1),
        (DATA, END_STREAM, 1),
    ]
    assert wire.frames()[-1][3] == message(b"ask")


@settings(max_examples=60)
@given(st.lists(st.integers(0, 200), max_size=8))
def test_where_the_bytes_are_cut_does_not_matter(cuts):
    """Three replies out of order, cut anywhere, are the same three replies."""
    speech = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 70000)) + b"".join(
        reply(number, bytes([number]) * number) for number in (5, 1, 3)
    )
    edges = sorted({0, len(speech), *(c % len(speech) for c in cuts)})
    parts = [speech[a:b] for a, b in itertools.pairwise(edges)]

    outcomes, _, _ = converse(*parts, payloads=(b"a", b"b", b"c"))

    assert [o.payload for o in outcomes] == [b"\1", b"\3" * 3, b"\5" * 5]


def test_a_message_may_come_in_pieces_with_padding_and_continued_headers():
    """All the forms that the RFC allows a server."""
    whole = message(b"0123456789")
    speech = (
        frame(HEADERS, PADDED | PRIORITY, 1, b"\3" + b"\0" * 5 + INITIAL[:4] + b"\0" * 3)
        + frame(CONTINUATION, END_HEADERS, 1, INITIAL[4:])
        + frame(DATA, PADDED, 1, b"\2" + whole[:7] + b"\0\0")
        + frame(DATA, 0, 1, whole[7:])
        + frame(HEADERS, END_STREAM, 1, TRAILERS[:3])
        + frame(CONTINUATION, END_HEADERS, 1, TRAILERS[3:])
    )

    assert converse(speech)[0] == [Outcome(0, "", b"0123456789")]


def test_a_failure_brings_status_and_text():
    """Percent-coded as gRPC does; a long text uses a longer length."""
    text = "no such model " + "x" * 200
    coded = (text + "%0Ahelp").encode()
    block = b"\x20\x88@\x0bgrpc-status\x015\x00\x0cgrpc-message\x7f" + bytes(
        [(len(coded) - 127) & 127 | 128, (len(coded) - 127) >> 7]
    )
    speech = frame(HEADERS, END_HEADERS | END_STREAM, 1, block + coded)

    assert converse(speech)[0] == [Outcome(5, text + "\nhelp", b"")]


@pytest.mark.parametrize(
    ("speech", "text"),
    [
        (frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS), "no single"),
        (frame(DATA, 0, 1, b"\1\0\0\0\1x") + frame(HEADERS, 5, 1, TRAILERS), "no single"),
        (frame(DATA, 0, 1, b"\0\0\0\0\2x") + frame(HEADERS, 5, 1, TRAILERS), "no single"),
        (frame(RST, 0, 1, b"\0\0\0\7"), "stream reset by the server (7)"),
    ],
)
def test_a_call_without_a_whole_message_fails(speech, text):
    """Nothing is guessed from a part."""
    ((outcome,), _, _) = converse(speech)

    assert outcome.status in (13, 14)
    assert text in outcome.text


@pytest.mark.parametrize(
    "speech",
    [
        frame(HEADERS, END_HEADERS | END_STREAM, 1, b"@\x8bgrpc-statusx\x010"),  # Huffman-coded
        frame(HEADERS, END_HEADERS | END_STREAM, 1, b"@\x0bgrpc"),
        frame(SETTINGS, 0, 0, b"\0"),
    ],
)
def test_what_is_no_grpc_breaks_the_connection(speech):
    """And the caller hears of it."""
    ((exc,), wire, connection) = converse(speech)

    assert isinstance(exc, ConnectionError)
    assert wire.closed
    assert not connection.usable


@pytest.mark.parametrize("n", [1, 65530, 65531, 200_000])
def test_no_more_is_sent_than_the_windows_allow(n):
    """The rest follows when the server opens them: nothing lost, nothing twice, in order."""
    payload = bytes(i % 251 for i in range(n))

    async def main():
        connection, wire = Connection(), Wire()
        connection.connection_made(wire)
        call = asyncio.ensure_future(connection.call(header_block("/", "x"), payload, 5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = sum(len(body) for kind, _, _, body in wire.frames() if kind == DATA)
        more = struct.pack(">I", 10**6)
        connection.data_received(frame(WINDOW, 0, 0, more))
        connection.data_received(frame(WINDOW, 0, 1, more))
        await asyncio.sleep(0)
        connection.data_received(reply(1, b"ok"))
        await call
        return first, [f for f in wire.frames() if f[0] == DATA]

    first, sent = asyncio.run(main())

    assert first == min(n + 5, 65535)
    assert b"".join(body for *_, body in sent) == message(payload)
    assert all(len(body) <= 16384 for *_, body in sent)
    assert [flags for _, flags, _, _ in sent] == [0] * (len(sent) - 1) + [END_STREAM]


def test_settings_change_the_window_of_calls_under_way():
    """A smaller window may become negative; a larger one lets the rest go."""
    small = frame(SETTINGS, 0, 0, struct.pack(">HIHI", 4, 16, 5, 20000))
    more = frame(WINDOW, 0, 1, struct.pack(">I", 10**6)) + frame(
        WINDOW, 0, 0, struct.pack(">I", 10**6)
    )
    outcomes, wire, _ = converse(small, more, reply(1, b"ok"), payloads=(b"x" * 100_000,))

    assert outcomes == [Outcome(0, "", b"ok")]
    assert (SETTINGS, ACK, 0, b"") in wire.frames()
    assert sum(len(b) for k, *_, b in wire.frames() if k == DATA) == 100_005


def test_a_ping_is_answered_and_an_answer_is_not():
    """With the same eight bytes."""
    _, wire, _ = converse(
        frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"x" * 8), reply(1, b"")
    )

    assert [f for f in wire.frames() if f[0] == PING] == [(PING, ACK, 0, b"12345678")]


def test_a_server_that_leaves_finishes_what_it_took():
    """Calls after its last one fail at once, and no new ones are started."""
    goaway = frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0))
    outcomes, _, connection = converse(goaway, reply(1, b"done"), payloads=(b"a", b"b"))

    assert outcomes[0] == Outcome(0, "", b"done")
    assert isinstance(outcomes[1], ConnectionResetError)
    assert not connection.usable


def test_a_lost_connection_fails_every_call():
    """No caller waits for ever."""
    outcomes, _, connection = converse(None, payloads=(b"a", b"b"))

    assert [type(o) for o in outcomes] == [ConnectionResetError] * 2
    assert not connection.usable


def test_a_call_that_takes_too_long_is_given_up_and_told_so():
    """The server is told to stop; a late reply is passed over."""
    (exc,), wire, connection = converse(timeout_s=0.0)
    connection.data_received(reply(1, b"late"))

    assert isinstance(exc, TimeoutError)
    assert (RST, 0, 1, b"\0\0\0\x08") in wire.frames()


def test_what_was_taken_in_is_given_back_to_the_window(monkeypatch):
    """After a gigabyte the server may send another one."""
    monkeypatch.setattr("cascade_client.http2._RENEW_AT", 100)
    _, wire, _ = converse(reply(1, b"x" * 120))

    assert (WINDOW, 0, 0, struct.pack(">I", 125)) in wire.frames()
