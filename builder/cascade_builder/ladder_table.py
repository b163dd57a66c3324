"""The ladder on a terminal: what points cost, keep and promise, beside the experts alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from .verdict import Measured, Verdict
from .wish import LAST
from .words import beaten_by, change, headline, missing, ms, percent, promise

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_verdict"]

_WIDTH = 110
"""Columns when nobody looks: a file or a pipe."""


def print_verdict(verdict: Verdict, file: IO[str]) -> None:
    """Print what a person must know in ten seconds."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_WIDTH)
    style = "bold green" if verdict.cascade_pays else "bold red"
    console.print(Text(f"{verdict.cascade}: {headline(verdict)}", style=style))
    console.print(_table(verdict))
    for line in _notes(verdict):
        console.print(Text(line))


def _table(verdict: Verdict) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("point", no_wrap=True)
    for name in ("ms/row", "saved", verdict.measure):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"vs {_plain(verdict.tiers[-1])}, pp", justify="right", no_wrap=True)
    table.add_column("promised loss", justify="right", no_wrap=True)
    tiers = " / ".join(map(_plain, verdict.tiers))
    table.add_column(f"answered by, %\n{tiers}", justify="right", overflow="fold")
    for point in verdict.points:
        default = point.name == verdict.default
        cells = [f"{point.name} (default)" if default else point.name, *_figures(verdict, point)]
        table.add_row(*(Text(cell, style="bold" if default else "") for cell in cells))
    table.add_section()
    for single in verdict.singles:
        cells = [f"{single.name} alone", *_figures(verdict, single)]
        table.add_row(*(Text(cell, style="dim") for cell in cells))
    return table


def _figures(verdict: Verdict, point: Measured) -> list[str]:
    at_last = point.drop == 0 and point.drop_error == 0
    difference = "-" if at_last else f"{change(-point.drop)} ± {100 * point.drop_error:.1f}"
    return [
        ms(point.cost_ms),
        percent(point.saving, 0),
        percent(point.quality),
        difference,
        promise(point) or "-",
        " / ".join(f"{100 * share:.0f}" for share in point.exit_shares),
    ]


def _notes(verdict: Verdict) -> Iterator[str]:
    rows = verdict.rows
    yield (
        f"Measured on {rows['check']} rows on which nothing was chosen ({rows['fit']} to fit, "
        f"{rows['choose']} to choose). Promises hold together at level {percent(verdict.level, 0)}."
    )
    half, oracle = (
        verdict.half_point,
        1 - verdict.curve.oracle_cost_ms / verdict.singles[-1].cost_ms,
    )
    yield (
        f"A perfect gate would save {percent(oracle, 0)}; meant to lose at most 0.5 pp, this "
        f"cascade saves {percent(half.saving, 0)} and measures {change(-half.drop)} pp."
    )
    for point in verdict.points:
        rival = beaten_by(verdict, point)
        if rival is not None and point.name != LAST:
            yield (
                f"{point.name}: {rival.name} alone is as good for no more "
                f"({percent(rival.quality)} at {ms(rival.cost_ms)} ms)."
            )
    for refused in verdict.refused:
        yield f"{refused['name']} is not in the ladder: {missing(verdict, refused)}."


def _plain(name: str) -> str:
    # Headers are markup to rich; names from a file are not.
    from rich.markup import escape

    return escape(name)
