"""The other side of `alone`: a program that serves a setup until its standard input ends."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from .peer import Setup

__all__ = ["READY", "SETUP", "Program"]

SETUP = "setup.json"
"""The file of the setup, in the folder that the program is called with."""

READY = "ready"
"""The file that it makes there when it answers."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a program is called with.

    Attributes:
        folder: Its own, removed after it.
        port: Where it is to listen, on loopback.
        setup: The cascade.
    """

    folder: Path
    port: int
    setup: Setup

    @classmethod
    def called(cls) -> Program:
        """Read the command line."""
        folder, port = Path(sys.argv[1]), int(sys.argv[2])
        return cls(folder, port, Setup.from_json((folder / SETUP).read_text()))

    def wait(self) -> None:
        """Say that it answers, and wait until it is to end."""
        (self.folder / READY).touch()
        sys.stdin.read()
