"""Flags that hold a secret, kept out of the process list.

tritonserver takes the values of its restricted interfaces on the command line alone, and every
user of a machine may read the command line of every process. So the child is started with a
placeholder, stopped by ``ptrace`` before its own code has run, and the entry of its ``argv`` is
pointed at the real flag, which lies in its environment: that is shown to its own user alone. The
kernel's idea of the command line stays the placeholder. Linux only; it needs the right to trace a
child, which is a parent's by default and not where a container or a hardened kernel forbids it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from io import FileIO
from typing import IO

from cascade_router.errors import ServerError

__all__ = ["start_hidden"]

_POINTER = struct.Struct("=Q")
_VARIABLE = "CASCADE_SERVE_FLAG_"
_FIELD_STACK = 28 - 3  # startstack of /proc/PID/stat, counted after "pid (name)" and the state
_LONGEST_S = 20.0
_TRAMPOLINE = 'kill -STOP $$; exec "$0" "$@"'

# From linux/ptrace.h.
_CONTINUE, _DETACH, _SEIZE = 7, 17, 0x4206
_TRACE_EXEC, _KILL_WITH_TRACER, _EVENT_EXEC = 0x10, 0x100000, 4

_MOST = 100_000  # arguments or variables, a bound for a walk through foreign memory


def start_hidden(
    command: Sequence[str],
    hidden: Sequence[str],
    *,
    env: Mapping[str, str],
    out: IO[bytes],
) -> subprocess.Popen[bytes]:
    """Start a program whose last arguments nobody else sees.

    Args:
        command: The program, an ELF binary, and its arguments.
        hidden: Further arguments, ``--flag=...:...=secret``; what follows the last ``=`` is hidden.
        env: Its environment.
        out: Where its output goes.

    Raises:
        ServerError: If they cannot be hidden here; nothing runs then.
    """
    _check_binary(command[0])
    names = [f"{_VARIABLE}{i}" for i in range(len(hidden))]
    # Random, for should it ever be taken for the key, it must be one that nobody knows.
    shown = [f"{flag.rpartition('=')[0]}={secrets.token_urlsafe(32)}" for flag in hidden]
    process = subprocess.Popen(
        ["/bin/sh", "-c", _TRAMPOLINE, *command, *shown],
        env={**env, **dict(zip(names, hidden, strict=True))},
        stdout=out,
        stderr=out,
        process_group=0,  # Ctrl-C is ours to hear: we drain it
    )
    try:
        _run_to_exec(process.pid)
        _swap(process.pid, len(command), names)
        _ptrace(_DETACH, process.pid, 0)
    except BaseException as exc:
        process.kill()
        process.wait()
        if not isinstance(exc, OSError | ValueError | struct.error):
            raise
        message = f"cascade-serve: the keys cannot be kept out of the process list here: {exc}"
        hint = "allow ptrace of own children (in a container: --cap-add SYS_PTRACE)"
        raise ServerError(message, hint=hint) from exc
    return process


def _run_to_exec(pid: int) -> None:
    """Let the trampoline go on, and stop it where the program is there but has not begun."""
    end = time.monotonic() + _LONGEST_S
    _await_stop(pid, end)
    _ptrace(_SEIZE, pid, _TRACE_EXEC | _KILL_WITH_TRACER)
    os.kill(pid, signal.SIGCONT)
    while _await_stop(pid, end) >> 16 != _EVENT_EXEC:
        _ptrace(_CONTINUE, pid, 0)


def _await_stop(pid: int, end: float) -> int:
    """Wait until a child stops; returns the kernel's status word."""
    while True:
        found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if found and os.WIFSTOPPED(status):
            return status
        if found or time.monotonic() >= end:
            message = "it ended before it began" if found else "it does not stop"
            raise ValueError(message)
        time.sleep(0.001)


def _ptrace(request: int, pid: int, data: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).ptrace
    call.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    call.restype = ctypes.c_long
    if call(request, pid, None, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _check_binary(path: str) -> None:
    with open(path, "rb") as file:
        if file.read(4) != b"\x7fELF":
            message = f"cascade-serve: {path} is no binary; what it starts would show the keys"
            raise ServerError(message, hint="put tritonserver itself on PATH, not a script")


def _swap(pid: int, first: int, names: Sequence[str]) -> None:
    """Point arguments ``first``, ``first + 1``, ... at the values of environment variables."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        start = int(file.read().rpartition(b")")[2].split()[_FIELD_STACK])
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        count = _word(memory, start)
        if count != first + len(names):
            message = f"its stack is not as expected ({count} arguments)"
            raise ValueError(message)
        variables = start + (count + 2) * _POINTER.size  # after argc, argv and a null
        left = set(names)
        for at in range(_MOST):
            address = _word(memory, variables + at * _POINTER.size)
            if address == 0 or not left:
                break
            name = _text(memory, address).partition(b"=")[0].decode(errors="replace")
            if name in left:
                left.remove(name)
                memory.seek(start + (1 + first + names.index(name)) * _POINTER.size)
                memory.write(_POINTER.pack(address + len(name) + 1))
    if left:
        message = "its environment is not as expected"
        raise ValueError(message)


def _word(memory: FileIO, address: int) -> int:
    memory.seek(address)
    return int(_POINTER.unpack(memory.read(_POINTER.size))[0])


def _text(memory: FileIO, address: int) -> bytes:
    memory.seek(address)
    return bytes(memory.read(4096)).partition(b"\0")[0]
