"""The line on a terminal that says what a command is doing."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

__all__ = ["status_line"]


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the spec") as status:
        yield status.update
