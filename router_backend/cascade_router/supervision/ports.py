"""Ports: are they free, and who holds them if not."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from cascade_router.errors import ServerError

__all__ = ["check_port", "holder_of"]

_LISTENING = "0A"


def check_port(name: str, host: str, port: int) -> None:
    """Refuse a port that cannot be listened on.

    Args:
        name: What it is for, as in ``--NAME-port``.
        host: Address to listen on.
        port: It.

    Raises:
        ServerError: Names the port, who holds it where that can be seen, and the flag.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            holder = holder_of(port)
            by = f" by {holder}" if holder else ""
            message = f"cascade-serve: port {port} ({name}) is in use{by}"
            hint = f"stop the server that listens there, or give --{name}-port=N"
        elif exc.errno == errno.EACCES:
            message = f"cascade-serve: port {port} ({name}) is not for this user"
            hint = f"give one above 1023: --{name}-port=N"
        else:
            message = f"cascade-serve: cannot listen on {host!r} ({name}): {exc.strerror}"
            hint = "127.0.0.1, 0.0.0.0, or the address of an interface of this machine"
        raise ServerError(message, hint=hint) from exc


def holder_of(port: int) -> str | None:
    """Say which process listens on a port: ``name (pid)``; None where that cannot be seen."""
    inodes = {f"socket:[{inode}]" for inode in _listeners(port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for handle in (process / "fd").iterdir():
                if str(handle.readlink()) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _listeners(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
