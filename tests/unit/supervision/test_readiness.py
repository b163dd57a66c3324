"""Probes get the truth as a status, quickly, whatever else connects."""

import json
import socket
import urllib.error
import urllib.request

import pytest

from cascade_router.supervision.readiness import ReadinessPage


@pytest.fixture
def found():
    return {"ready": True, "state": "serving"}


@pytest.fixture
def page(found):
    made = ReadinessPage("127.0.0.1", 0, lambda: found)
    yield made
    made.close()


def ask(page, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{page.port}{path}", timeout=5) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_ready_follows_the_report(page, found):
    """200 while it serves, 503 otherwise, the report in both."""
    assert ask(page, "/ready") == (200, found)
    found["ready"] = False
    assert ask(page, "/ready?verbose") == (503, found)


def test_live_is_about_this_program(page, found):
    """A server that is down is started anew: that is no reason to kill its supervisor."""
    found.update(ready=False, state="down")

    assert ask(page, "/live") == (200, {"live": True, "state": "down"})


def test_other_paths_are_not_found(page):
    """It serves no files."""
    assert ask(page, "/../etc/passwd")[0] == 404


def test_silent_connections_do_not_keep_probes_out(page):
    """Sixteen places; who says nothing loses his, who is too many is hung up on."""
    idle = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(15)]

    assert ask(page, "/ready")[0] == 200
    for one in idle:
        one.close()
