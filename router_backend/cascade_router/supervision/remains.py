"""One server for a repository at a time, and what is left when it did not end by itself.

Each launch of a server gets a random mark. Its shared-memory regions begin with it, and its process
and those of its models have it among their arguments; so what a dead predecessor left is told from
everybody else's without a process number, which the system may have given to another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cascade_router.errors import ServerError

from .processes import Process, processes

__all__ = ["Claim", "Cleaned", "clean", "holder"]

SHARED_MEMORY = Path("/dev/shm")  # where POSIX shared memory lies on Linux
_PREFIX = "cascade_serve_"
_PROGRAMS = {"tritonserver": 5.0, "triton_python_backend_stub": 1.0}
"""What a launch starts, and how many seconds each is given to end by itself: a server has requests
to finish; a stub without its server has nothing to lose, and some hang then, for good."""

_KILLED_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What was removed.

    Attributes:
        processes: Ended, server and models together.
        regions: Of shared memory.
        n_bytes: In those regions.
    """

    processes: int = 0
    regions: int = 0
    n_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.processes or self.regions)

    def __str__(self) -> str:
        megabytes = self.n_bytes / 2**20
        return (
            f"{self.processes} processes, {self.regions} regions of shared memory "
            f"({megabytes:.0f} MB)"
        )


class Claim:
    """The right to serve a repository, until this process ends, however it ends.

    Args:
        repository: The model repository.
        folder: Where claims are kept; None: a private folder of this user.

    Attributes:
        scratch: An empty folder for this server; whatever a predecessor left in it is gone.

    Raises:
        ServerError: If another cascade-serve of this user holds it.
    """

    def __init__(self, repository: Path, folder: Path | None = None) -> None:
        own, name = _private(folder), _name(repository)
        self._record = own / f"{name}.json"
        self.scratch = own / f"{name}.scratch"
        self._lock = own / f"{name}.lock"
        self._handle = _locked(self._lock, repository)
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(mode=0o700)
        self._marks = self._read()

    def marks(self) -> list[str]:
        """Marks of launches whose remains were not cleaned, oldest first."""
        return list(self._marks)

    def new_mark(self) -> str:
        """Make the mark of a launch and record it, before anything carries it."""
        mark = f"{_PREFIX}{secrets.token_hex(8)}_"
        self._write([*self.marks(), mark])
        return mark

    def clean(self) -> Cleaned:
        """End and remove what earlier launches left; their marks are forgotten."""
        found = [clean(mark) for mark in self.marks()]
        self._write([])
        return Cleaned(
            processes=sum(one.processes for one in found),
            regions=sum(one.regions for one in found),
            n_bytes=sum(one.n_bytes for one in found),
        )

    def release(self) -> None:
        """Let the repository go."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not self.marks():
                self._record.unlink(missing_ok=True)
            self._lock.unlink()
        os.close(self._handle)

    def _read(self) -> list[str]:
        try:
            values = json.loads(self._record.read_text())
        except (OSError, ValueError):
            values = None
        # A mark that is not like ours would make regions of others match.
        return [v for v in values if _is_mark(v)] if isinstance(values, list) else []

    def _write(self, marks: list[str]) -> None:
        self._marks = marks
        draft = self._record.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # a full disk: then the next one has less to go by
            draft.write_text(json.dumps(marks))
            draft.replace(self._record)


def holder(repository: Path, folder: Path | None = None) -> int | None:
    """Say which cascade-serve of this user serves a repository; None: none does.

    Args:
        repository: The model repository.
        folder: Where claims are kept; None: the private folder of this user.
    """
    try:
        handle = os.open(_private(folder) / f"{_name(repository)}.lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(handle, 20, 0).strip() or 0)
    finally:
        os.close(handle)
    return None


def _locked(path: Path, repository: Path) -> int:
    """Open a file and lock it.

    Raises:
        ServerError: If another holds it; names who.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            by = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            message = f"cascade-serve: {repository} is served already by process {by or '?'}"
            raise ServerError(message, hint="stop that one, or serve another repository") from exc
        # Its last holder removes it: what was opened just before that locks nobody out.
        if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
            return handle
        os.close(handle)


def clean(
    mark: str,
    *,
    memory: Path = SHARED_MEMORY,
    clock: Callable[[], float] = time.monotonic,
) -> Cleaned:
    """End the processes of a launch, gently first, and remove its shared memory.

    Args:
        mark: Of the launch.
        memory: Folder of the shared memory.
        clock: Seconds, monotonic.
    """
    if not _is_mark(mark):
        message = f"{mark!r} is no mark"
        raise ValueError(message)
    ended = 0
    for name, gentle_s in _PROGRAMS.items():  # the server ends its own gently
        ended += _end([one for one in _carriers(mark) if one.program == name], gentle_s, clock)
    regions = n_bytes = 0
    for region in memory.glob(f"{mark}*"):
        with contextlib.suppress(OSError):
            size = region.stat().st_size
            region.unlink()
            regions, n_bytes = regions + 1, n_bytes + size
    return Cleaned(processes=ended, regions=regions, n_bytes=n_bytes)


def _carriers(mark: str) -> list[Process]:
    mine = os.geteuid()
    return [
        one
        for one in processes()
        if one.user == mine and one.program in _PROGRAMS and any(mark in a for a in one.arguments)
    ]


def _end(found: list[Process], gentle_s: float, clock: Callable[[], float]) -> int:
    for sign, wait_s in ((signal.SIGTERM, gentle_s), (signal.SIGKILL, _KILLED_S)):
        end = clock() + wait_s
        for one in found:
            one.send(sign)
        while any(one.lives() for one in found) and clock() < end:
            time.sleep(0.05)
    return len(found)


def _is_mark(value: object) -> bool:
    if not isinstance(value, str) or not value.startswith(_PREFIX) or not value.endswith("_"):
        return False
    digits = value[len(_PREFIX) : -1]
    return len(digits) == 16 and set(digits) <= set("0123456789abcdef")


def _name(repository: Path) -> str:
    place = f"{os.uname().nodename}:{repository.resolve()}"  # machines may share a home folder
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _private(folder: Path | None) -> Path:
    """Find, or make, a folder that belongs to this user alone."""
    if folder is None:
        folder = next(filter(_usable, _places()), None) or list(_places())[-1]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as exc:
        message = f"{folder}: cannot be used: {exc.strerror}"
        hint = "let this user write to the home folder, or to the temporary one"
        raise ServerError(message, hint=hint) from exc
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        message = f"{folder}: is not a folder of this user alone"
        raise ServerError(message, hint=f"remove it, or chmod 700 {folder}")
    return folder


def _places() -> Iterator[Path]:
    """Say where that folder may lie: the same in each session, and still there after a logout.

    So neither below XDG_RUNTIME_DIR nor where HOME says.
    """
    with contextlib.suppress(KeyError):  # a user without an entry, as some containers have
        yield Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".cache" / "cascade-serve"
    yield Path(tempfile.gettempdir()) / f"cascade-serve-{os.geteuid()}"


def _usable(folder: Path) -> bool:
    """Say whether files can be written and locked there, which a network may not know."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return os.access(folder, os.W_OK | os.X_OK)
