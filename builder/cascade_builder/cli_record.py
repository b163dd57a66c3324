"""``cascade-builder record``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import common_options
from .spec import Spec

if TYPE_CHECKING:
    from rich.progress import Task, TaskID

__all__ = ["record"]

_SPEED_WINDOW_S = 120.0


def _npz(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix != ".npz":
        message = f"got {path.name!r}, expected a name ending in .npz"
        raise click.BadParameter(message)
    return path


@click.command()
@click.argument("spec")
@click.option(
    "--data",
    "data",
    required=True,
    metavar="D",
    type=click.Path(path_type=Path),
    help="Folder of files, folder with a folder per class, CSV with path,label, or NPZ with x, y; "
    "texts: TXT with one a line, folders of such, or CSV with text,label.",
)
@common_options.repository("Model repository whose experts run.")
@click.option(
    "--out",
    callback=_npz,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.  [default: ARTIFACTS/CASCADE/records.npz]",
)
@common_options.artifacts("Where records lie if --out does not say.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What paths in a CSV are relative to.  [default: its folder, or `images` in there]",
)
@click.option("--x", default="x", show_default=True, help="Array of rows in an NPZ.")
@click.option("--y", help="Array of labels in an NPZ.  [default: y if it is there]")
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Class names as the data set writes them, one a line in class order.",
)
@click.option("--unlabelled", is_flag=True, help="Leave labels alone.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help="Take N rows, drawn at random, always the same.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    metavar="N",
    help="Rows per run of an expert.  [default: max_batch of the spec]",
)
@click.option(
    "--top",
    type=click.IntRange(2),
    metavar="N",
    help="Keep only the N largest logits of a row (softmax).  [default: all up to 1 GiB, then 64]",
)
@click.option("--skip-bad", is_flag=True, help="Leave broken rows out and count them.")
@click.option("--fresh", is_flag=True, help="Record anew even if nothing changed.")
@common_options.json_report()
def record(
    spec: str,
    data: Path,
    repository: Path,
    out: Path | None,
    artifacts: Path,
    as_json: bool,
    batch: int | None,
    top: int | None,
    fresh: bool,
    **source: Any,
) -> None:
    """Run the built experts of SPEC over real rows; keep what they say and what they cost.

    Labels are optional. An interrupted recording goes on where it stopped when called again.
    """
    from .record import Source
    from .record import record as run
    from .record_report import summary

    read = Spec.find(spec)
    out = out or artifacts / read.name / "records.npz"
    try:
        with _progress() as progress:
            report = run(
                read,
                Source(path=data, **source),
                repository,
                out=out,
                batch=batch,
                top=top,
                fresh=fresh,
                tell=lambda text: click.echo(f"note: {text}", err=True),
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("\ninterrupted: what is recorded stays, call again to go on", err=True)
        raise click.Abort from None
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        click.echo(summary(report), nl=False)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """Show on a terminal how far it is, how fast, and how long it will take."""
    if not sys.stderr.isatty():
        yield lambda done, total, what: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        """Rows per second."""

        def render(self, task: Task) -> Text:
            shown = task.speed is not None and task.fields["unit"]
            return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if shown else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Speed())
    tasks: dict[str, TaskID] = {}
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        speed_estimate_period=_SPEED_WINDOW_S,
    ) as bar:

        def show(done: int, total: int, what: str) -> None:
            if what not in tasks:
                # Rows of an earlier run are there from the start: they do not count as speed.
                unit = "rows" if what == "recording" else ""
                tasks[what] = bar.add_task(what, total=total, completed=done, unit=unit)
            bar.update(tasks[what], completed=done)

        yield show
