"""Read a small text file of the repository, whatever has been put in its place."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["MOST_BYTES", "read_text"]

MOST_BYTES = 64 * 1024 * 1024
"""More than any policy or manifest needs, and less than would hurt the server."""


def read_text(path: Path) -> str:
    """Read a file as UTF-8.

    A pipe would hold its reader until somebody writes, a device would never end: both are refused,
    so a thread that looks after files is never caught by one.

    Raises:
        OSError: If it cannot be read, is no regular file, or is larger than ``MOST_BYTES``.
        UnicodeDecodeError: If it is no UTF-8.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            message = "it is no regular file"
            raise OSError(message)
        if found.st_size > MOST_BYTES:
            message = f"it has more than {MOST_BYTES >> 20} MiB"
            raise OSError(message)
        with open(descriptor, "rb", closefd=False) as file:  # it is open already
            return file.read(MOST_BYTES).decode()
    finally:
        os.close(descriptor)
