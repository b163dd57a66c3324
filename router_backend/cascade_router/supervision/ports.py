"""Ports: are they free, who holds them if not, and is it the right one."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from cascade_router.errors import ServerError

__all__ = ["check_listener", "check_port", "holder_of"]

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


def check_listener(group: int, name: str, port: int) -> None:
    """Refuse a port on which others listen instead of processes of ours.

    A server takes its ports when its models are loaded. Until then another may have taken them,
    whose models are not ours to look after, or another user, who is not to be shown a key. Where
    nothing can be seen of sockets or processes, nothing is refused.

    Args:
        group: Number of the process group.
        name: What the port is for, as in ``--NAME-port``.
        port: It.

    Raises:
        ServerError: Names who listens there, where that can be seen.
    """
    sockets = _listeners(port)
    if not sockets:
        return
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group and _holds(process, sockets):
                return
        except PermissionError:
            return
        except OSError:
            continue  # it has ended
    by = holder_of(port) or "someone else"
    message = f"cascade-serve: port {port} ({name}) was taken by {by} meanwhile"
    raise ServerError(message, hint=f"start it again, or give another one: --{name}-port=N")


def holder_of(port: int) -> str | None:
    """Say which process listens on a port: ``name (pid)``; None where that cannot be seen."""
    sockets = _listeners(port)
    if not sockets:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if _holds(process, sockets):
                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return None


def _holds(process: Path, sockets: set[str]) -> bool:
    """Say whether a process has one of the sockets open."""
    for handle in (process / "fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if str(handle.readlink()) in sockets:
                return True
    return False


def _listeners(port: int) -> set[str]:
    """Find the sockets that listen on a port, as the links to them read."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[9]}]")
    return found
