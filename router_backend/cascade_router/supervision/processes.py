"""Processes of this machine, read from ``/proc``."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "Stub", "processes", "reap", "stubs_of"]

_PROC = Path("/proc")
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process at one moment.

    Attributes:
        pid: Its number.
        parent: Its parent's.
        state: The kernel's letter: ``R`` and ``S`` are well, ``T`` stopped, ``Z`` dead.
        started: When, in the kernel's ticks: with ``pid`` it tells processes apart for ever.
        user: Its effective user.
        program: Name of its executable; empty once it is dead.
        arguments: Its command line; empty once it is dead.
    """

    pid: int
    parent: int
    state: str
    started: int
    user: int
    program: str
    arguments: tuple[str, ...]

    @classmethod
    def read(cls, pid: int) -> Process | None:
        """Look at a process; None: there is none."""
        try:
            stat, user = _stat(pid), (_PROC / str(pid)).stat().st_uid
            line = (_PROC / str(pid) / "cmdline").read_bytes()
        except (OSError, IndexError, ValueError):
            return None
        arguments = tuple(a.decode(errors="replace") for a in line.split(b"\0")[:-1])
        return cls(
            pid=pid,
            parent=int(stat[1]),
            state=stat[0],
            started=int(stat[19]),
            user=user,
            program=os.path.basename(arguments[0]) if arguments else "",
            arguments=arguments,
        )

    @staticmethod
    def cpu_s(pid: int) -> float:
        """Seconds of processor time that a process has used; 0 if there is none."""
        try:
            fields = _stat(pid)
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError, ValueError):
            return 0.0

    def lives(self) -> bool:
        """Say whether this very process still runs."""
        now = Process.read(self.pid)
        return now is not None and now.started == self.started and now.state not in ("Z", "X")

    def send(self, sign: signal.Signals) -> None:
        """Send a signal, unless it is gone."""
        if self.lives():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, sign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """The process of one instance of a Python model.

    Attributes:
        process: It.
        model: The model; empty where it died before it was first seen.
        version: Of the model.
        region: Name of its shared memory.
    """

    process: Process
    model: str = ""
    version: str = ""
    region: str = ""

    @property
    def dead(self) -> bool:
        """Whether it has ended without its server having ended it."""
        return self.process.state == "Z"

    @property
    def stopped(self) -> bool:
        """Whether someone has stopped it by a signal."""
        return self.process.state == "T"


def processes() -> Iterator[Process]:
    """Look at every process."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            found = Process.read(int(entry.name))
            if found is not None:
                yield found


def stubs_of(server: int) -> list[Stub]:
    """Look at the processes of a server's Python models, dead ones included.

    Args:
        server: Process number of tritonserver.
    """
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if int(_stat(int(entry.name))[1]) != server:
                continue
        except (OSError, IndexError, ValueError):
            continue
        process = Process.read(int(entry.name))
        if process is None:
            continue
        # STUB .../MODEL/VERSION/model.py REGION ...
        if process.program == _STUB and len(process.arguments) > 2:
            folder, region = Path(process.arguments[1]).parent, process.arguments[2]
            model, version = folder.parent.name, folder.name
            found.append(Stub(process=process, model=model, version=version, region=region))
        elif process.state == "Z":
            found.append(Stub(process=process))
    return found


def reap(group: int) -> None:
    """Take note of the dead of a process group that have become children of this process.

    As process 1 of a container it inherits what a killed server started, and nobody else would
    ever do that.

    Args:
        group: Number of the process group.
    """
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/PID/stat`` from the state on."""
    text = (_PROC / str(pid) / "stat").read_bytes()
    return text.rpartition(b")")[2].decode().split()
