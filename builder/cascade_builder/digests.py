"""Digests of files, remembered by size and time, so that unchanged gigabytes are not read again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .manifest import file_digest

__all__ = ["Digests", "stamp"]


def stamp(path: Path) -> dict[str, int]:
    """Say a file's size and time."""
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


class Digests:
    """Says digests of files.

    Args:
        known: What an earlier one's ``used`` said; anything else in it is left out.
    """

    def __init__(self, known: Mapping[str, Any] = {}) -> None:  # never changed
        self._known = known
        self.used: dict[str, dict[str, Any]] = {}
        """Size, time and digest of every file asked for, by path."""

    def untouched(self, path: Path) -> bool:
        """Say whether a file is as it was when its digest was last taken, by size and time."""
        before = self._known.get(str(path.absolute()))
        try:
            now = stamp(path)
        except OSError:
            return False
        return isinstance(before, dict) and all(before.get(key) == now[key] for key in now)

    def of(self, path: Path) -> str:
        """Say ``sha256:...`` of a file.

        Raises:
            OSError: If it cannot be read.
        """
        name = str(path.absolute())
        if not self.untouched(path):
            self.used[name] = {**stamp(path), "digest": file_digest(path)}
        elif name not in self.used:
            self.used[name] = self._known[name]
        return str(self.used[name]["digest"])
