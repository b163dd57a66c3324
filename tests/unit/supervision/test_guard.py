"""A server that does not ask for the key is found out, on every port."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fake_supervised import Clock, FakeTriton

from cascade_router.errors import ServerError
from cascade_router.supervision.guard import check_guard, http_status


class Says(FakeTriton):
    """One that does not tell what it has, in given words; the last are repeated."""

    def __init__(self, *words):
        super().__init__()
        self.words = list(words)

    def index(self):
        return self.words.pop(0) if len(self.words) > 1 else self.words[0]


SHUT = "This protocol is restricted, expecting header 'triton-grpc-protocol-cascade-key'"


def check(plain, keyed, status):
    clock = Clock()
    check_guard(lambda: plain, lambda: keyed, status, clock=clock, sleep=clock.sleep)


@pytest.mark.parametrize("status", [lambda: 403, None])
def test_a_guarded_server_passes(status):
    """Refused without the key, taken with it; HTTP where there is any."""
    check(Says(SHUT), FakeTriton(), status)


@pytest.mark.parametrize(
    ("plain", "keyed", "status"),
    [
        (FakeTriton(), FakeTriton(), lambda: 403),
        (Says(SHUT), Says(SHUT), lambda: 403),
        (Says(SHUT), FakeTriton(), lambda: 200),
        (Says(SHUT), FakeTriton(), lambda: 400),
    ],
)
def test_an_open_server_is_found_out(plain, keyed, status):
    """A guard that guards nothing, or refuses us, or stands at one door only."""
    with pytest.raises(ServerError, match="does not guard"):
        check(plain, keyed, status)
    assert ("close",) in plain.log
    assert ("close",) in keyed.log


@pytest.mark.parametrize("words", ["Deadline Exceeded", "Socket closed"])
def test_no_answer_is_no_refusal(words):
    """It is asked again, and in the end not believed."""
    check(Says(words, words, SHUT), FakeTriton(), lambda: 403)
    with pytest.raises(ServerError, match="does not guard"):
        check(Says(words), FakeTriton(), lambda: 403)
    answers = iter([0, 0, 403])
    check(Says(SHUT), FakeTriton(), lambda: next(answers))
    with pytest.raises(ServerError, match="does not guard"):
        check(Says(SHUT), FakeTriton(), lambda: 0)


@pytest.mark.parametrize("code", [403, 200])
def test_http_is_asked_for_the_list_of_models(code):
    """Without a key, and whatever proxy the environment names."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):  # the library's name
            asked.append((self.path, self.headers.get("cascade-key")))
            self.send_response(code)
            self.end_headers()

        def log_message(self, format, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        found = http_status("127.0.0.1", server.server_port)
        thread.join()

    assert (found, asked) == (code, [("/v2/repository/index", None)])


def test_no_http_server_has_no_status():
    """Nobody listens."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        port = server.server_port
    assert http_status("127.0.0.1", port) == 0
