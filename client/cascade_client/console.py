"""How the command line fails, prints and shows progress.

Results go to stdout, everything else to stderr; exit 0, 1 for what went wrong, 2 for wrong usage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from cascade_router.errors import CascadeError
from cascade_router.keys import Keys

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .client import CascadeClient

__all__ = [
    "Group",
    "Target",
    "files_argument",
    "json_option",
    "print_json",
    "print_table",
    "progress_bar",
    "wrong_usage",
]

_PLAIN_WIDTH = 200


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
files_argument = click.argument("files", nargs=-1, type=click.Path(path_type=Path))


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: where, which cascade, and with which key file."""

    url: str
    cascade: str
    keys: Path | None = None

    def client(self) -> CascadeClient:
        """Open a client."""
        from .client import CascadeClient

        keys = None if self.keys is None else Keys.read(self.keys)
        return CascadeClient(self.url, self.cascade, keys=keys)


class Group(click.Group):
    """A click group that reports our errors in two lines instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except CascadeError as exc:
            click.echo(f"Error: {exc.message}", err=True)
            if exc.hint:
                click.echo(f"help: {exc.hint}", err=True)
            ctx.exit(1)


def print_json(values: Any) -> None:
    """Print for machines."""
    click.echo(json.dumps(values, indent=2, allow_nan=False))


def print_table(table: RenderableType) -> None:
    """Print for people; without a terminal wide enough that nothing is cut."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH).print(table)


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Show progress on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import Progress, TimeElapsedColumn

    columns = (*Progress.get_default_columns()[:2], TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )


def wrong_usage(message: str) -> NoReturn:
    """End with status 2."""
    raise click.UsageError(message)
