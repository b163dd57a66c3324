"""One build at a time in a folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cascade_router.errors import BuildError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(folder: Path, what: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a folder, which is made if missing and removed again if it stays empty.

    The system lets go of it when this process ends, however it ends.

    Args:
        folder: It.
        what: What to call it in messages.
        tell: Takes a warning where the file system knows no locks, as some network ones.

    Raises:
        BuildError: If another build holds it, or it cannot be made.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        message = f"{folder}: the {what} cannot be used: {exc}"
        raise BuildError(message, hint="check its rights, or name another folder") from exc
    try:
        _lock(handle, folder, what, tell)
        yield
    finally:
        os.close(handle)
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()  # nothing came of it


def _lock(handle: int, folder: Path, what: str, tell: Callable[[str], None]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        message = f"{folder}: another build is using this {what}"
        hint = "wait until it has ended, or build into another folder"
        raise BuildError(message, hint=hint) from exc
    except OSError as exc:
        if exc.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        tell(f"warning: {folder} cannot be locked ({exc.strerror}); let no other build use it")
