"""HTTP on loopback: connections that are shared, kept, refused, and lost."""

import asyncio
import gzip
import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_cascade import FakeCascade, row
from fake_wire import serve_http

from cascade_client.calls import Infer, ModelConfig, ServerLive, ServerMetadata, ServerName
from cascade_client.transport import connect, connect_async
from cascade_router.errors import NoAnswerError, RequestError, ServerError

TRITON = ServerName("triton", "2.51.0")
INFER = Infer("pitch", {"FRAME": np.stack([row(2, 0.5)])})


class Blocking:
    """Calls over the blocking transport; some at once, from as many threads."""

    def __init__(self, url, timeout_s=5.0):
        self._transport = connect(url, timeout_s=timeout_s)

    def together(self, calls):
        with ThreadPoolExecutor(len(calls)) as threads:
            return list(threads.map(self._transport.send, calls))

    def one(self, call):
        return self._transport.send(call)

    def close(self):
        self._transport.close()


class Looping:
    """Calls over the asynchronous transport, in one event loop."""

    def __init__(self, url, timeout_s=5.0):
        self._transport = connect_async(url, timeout_s=timeout_s)
        self._runner = asyncio.Runner()

    def together(self, calls):
        async def gather():
            return await asyncio.gather(*(self._transport.send(call) for call in calls))

        return self._runner.run(gather())

    def one(self, call):
        return self.together([call])[0]

    def close(self):
        self._runner.run(self._transport.close())
        self._runner.close()


@pytest.fixture(params=[Blocking, Looping])
def open_http(request):
    """A function that opens one of the two transports; closed after the test."""
    opened = []

    def open_one(url, **kwargs):
        opened.append(request.param(url, **kwargs))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


class Script:
    """A server that says its pieces, a connection each, and closes; remembers what it heard."""

    def __init__(self, *speeches):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heard = []
        self.left = [threading.Event() for _ in speeches]
        self._thread = threading.Thread(target=self._speak, args=(speeches,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._socket.close()

    def _speak(self, speeches):
        for speech, left in zip(speeches, self.left, strict=True):
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rb") as stream:
                head = b"".join(iter(stream.readline, b"\r\n")).lower()
                length = re.search(rb"content-length: (\d+)", head)
                self.heard.append(head + stream.read(int(length[1]) if length else 0))
                connection.sendall(speech)
            left.set()


def answer(values, *headers):
    """A whole HTTP response that promises to keep the connection."""
    body = json.dumps(values).encode()
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


NAME = {"name": "triton", "version": "2.51.0"}


def test_many_requests_are_under_way_at_once(open_http):
    """The server answers none of 96 until it holds all of them."""
    n = 96
    fake, barrier = FakeCascade(), threading.Barrier(n, timeout=30)
    ask = fake.send
    fake.send = lambda call: (barrier.wait(), ask(call))[1]
    with serve_http(fake) as url:
        assert open_http(url, timeout_s=30).together([ServerMetadata()] * n) == [TRITON] * n


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("by_name", [False, True])
def test_loopback_of_either_family_by_number_and_by_name(open_http, host, by_name):
    """Whichever of its addresses the server listens on, ``localhost`` finds it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if by_name and family not in {entry[0] for entry in socket.getaddrinfo("localhost", 0)}:
        pytest.skip(f"localhost is not {host} here")
    try:
        socket.create_server((host, 0), family=family).close()
    except OSError:
        pytest.skip(f"no {host} here")
    with serve_http(FakeCascade(), host) as url:
        port = url.rsplit(":", 1)[1]
        http = open_http(f"http://localhost:{port}" if by_name else url)

        assert http.one(ServerMetadata()) == TRITON


def test_proxies_of_the_environment_are_not_used(open_http, monkeypatch):
    """A server on this machine is asked directly."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with serve_http(FakeCascade()) as url:
        assert open_http(url).one(ServerMetadata()) == TRITON


def test_no_compression_is_asked_for(open_http):
    """It would cost Triton more than loopback takes."""
    with Script(answer(NAME)) as server:
        open_http(server.url).one(ServerMetadata())

    assert b"\r\naccept-encoding: identity\r\n" in server.heard[0]


def test_a_body_that_is_compressed_all_the_same_is_read_once(open_http):
    """Tensors, and the message of a refusal."""
    with serve_http(FakeCascade(), compress=gzip.compress) as url:
        http = open_http(url)

        assert http.one(INFER)["LABEL"].tolist() == [[2]]
        with pytest.raises(RequestError, match="unknown model: 'nobody' is not found"):
            http.one(ModelConfig("nobody"))


def test_a_connection_closed_while_it_was_idle_is_replaced(open_http):
    """The server said nothing when it left; the next call does not suffer."""
    with Script(answer({"outputs": []}), answer({"outputs": []})) as server:
        http = open_http(server.url)
        first = http.one(INFER)
        assert server.left[0].wait(5)

        assert (first, http.one(INFER)) == ({}, {})


def test_a_connection_is_kept_for_the_next_call(open_http):
    """Three calls, one connection: the server gives every connection a thread of its own."""
    fake, threads = FakeCascade(), set()
    with serve_http(fake) as url:
        http = open_http(url)
        ask = fake.send
        fake.send = lambda call: (threads.add(threading.current_thread().name), ask(call))[1]
        for _ in range(3):
            http.one(ServerLive())

    assert len(threads) == 1


@pytest.mark.parametrize(
    "speech",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: no\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: /v2\r\nContent-Length: 0\r\n\r\n",
        answer({"outputs": []}, b"Inference-Header-Content-Length: many"),
        answer([]),
    ],
)
def test_a_reply_that_breaks_off_or_makes_no_sense_is_the_servers(open_http, speech):
    """Whatever the library calls it; nothing is followed elsewhere."""
    with Script(speech) as server, pytest.raises(ServerError, match=server.url):
        open_http(server.url).one(INFER)


def test_a_reply_that_stops_midway_is_a_timeout(open_http):
    """The time of a call runs until its last byte."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        http = open_http(f"http://127.0.0.1:{server.getsockname()[1]}", timeout_s=0.2)
        held = []

        def speak():
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{")
            held.append(connection)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(NoAnswerError):
            http.one(ServerMetadata())
        thread.join()
        held[0].close()


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_a_name_that_leads_nowhere_is_no_timeout(open_http, host):
    """Nor a traceback."""
    with pytest.raises(ServerError, match="no connection"):
        open_http(f"http://{host}:8000").one(ServerLive())


def test_the_name_of_a_model_is_one_segment_of_the_path(open_http):
    """Slashes, spaces and percent signs belong to the name, not to the path."""
    with Script(answer({}), answer({})) as server:
        http = open_http(server.url)
        for name in ("a/b c?d", "50%2F#"):
            with pytest.raises(ServerError, match="not what Triton sends"):
                http.one(ModelConfig(name))
            assert server.left[len(server.heard) - 1].wait(5)

    lines = [heard.split(b"\r\n")[0] for heard in server.heard]
    assert lines == [
        b"get /v2/models/a%2fb%20c%3fd/config http/1.1",
        b"get /v2/models/50%252f%23/config http/1.1",
    ]


def test_a_transport_that_never_spoke_closes(open_http):
    """And takes no loop to be made."""
    open_http("http://localhost:1")
