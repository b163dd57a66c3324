"""What a command is doing, for whoever watches it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

import click

__all__ = ["progress_lines", "status_line"]


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the spec") as status:
        yield status.update


def progress_lines(clock: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """Write what is being done line by line on stderr, with the seconds since the start.

    Several things may be done at once, and what was said of one stays to be read.
    """
    start = clock()

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk under the log must not stop what is told
            click.echo(f"[{clock() - start:5.1f} s] {text}", err=True)

    return tell
