"""Who listens on a port, and whether it is who should."""

import os
import socket
import subprocess
from pathlib import Path

import pytest

from cascade_router.errors import ServerError
from cascade_router.supervision.ports import check_listener, holder_of


@pytest.fixture
def taken():
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made.getsockname()[1]


@pytest.fixture
def other():
    """A process group that listens nowhere."""
    made = subprocess.Popen(["/bin/sleep", "1000"], process_group=0)
    yield made
    made.kill()
    made.wait()


def test_a_process_that_listens_is_known(taken):
    """This one does."""
    check_listener(os.getpgrp(), "grpc", taken)
    assert holder_of(taken).endswith(f"(pid {os.getpid()})")


def test_a_port_that_another_process_took_is_refused(taken, other):
    """Whoever it is: what answers there is not shown a key, and not looked after."""
    with pytest.raises(ServerError, match=rf"\(grpc\) was taken by .*\(pid {os.getpid()}\)"):
        check_listener(other.pid, "grpc", taken)


def test_who_is_gone_listens_nowhere(taken):
    """The server may have ended since."""
    with pytest.raises(ServerError, match="was taken by"):
        check_listener(2**22 + 1, "grpc", taken)


def test_where_nobody_is_seen_to_listen_nobody_is_refused(taken, other, monkeypatch):
    """Some sandboxes show no sockets at all, though something answers."""
    monkeypatch.setattr(Path, "read_text", lambda _: "sl local_address\n")

    check_listener(other.pid, "grpc", taken)
