"""A plan on a terminal: the pool, a cascade per goal, what each expert brings to one of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from .planned import Figures, Pick, Plan
from .words import change, ms, percent

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_plan"]

_WIDTH = 120
"""Columns when nobody looks: a file or a pipe."""


def print_plan(plan: Plan, shown: str, file: IO[str]) -> None:
    """Print a plan.

    Args:
        plan: What was found.
        shown: Goal whose experts are shown one by one.
        file: Where to.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_WIDTH)
    pick = next(pick for pick in plan.picks if pick.name == shown)
    console.print(_picks(plan))
    console.print(_gains(plan, pick))
    for line in _notes(plan, pick):
        console.print(Text(line))


def _picks(plan: Plan) -> Table:
    from rich.text import Text

    columns = ["ms/row", "saved", plan.measure, f"vs {plan.experts[-1]}, pp", "perfect gate"]
    table = _table(f"{plan.cascade}: goal", "cascade (answers, %)", *columns)
    for pick in plan.picks:
        shares = zip(pick.experts, pick.figures.exit_shares, strict=True)
        cells = [
            f"{pick.name}: {_wanted(pick)}",
            " > ".join(f"{name} ({100 * share:.0f})" for name, share in shares),
            *_figures(pick.figures),
            f"{ms(pick.oracle_cost_ms)} ms",
        ]
        table.add_row(*map(Text, cells))
    table.add_section()
    for name, figures in zip(plan.experts, plan.alone, strict=True):
        cells = ["", f"{name} alone", *_figures(figures), ""]
        table.add_row(*(Text(cell, style="dim") for cell in cells))
    return table


def _gains(plan: Plan, pick: Pick) -> Table:
    from rich.text import Text

    table = _table(f"{pick.name}: expert", "", "saves, ms/row", f"adds {plan.measure}, pp", "")
    for gain in pick.gains:
        cells = [
            gain.expert,
            "used" if gain.used else "would be added",
            f"{gain.saved_ms:+.3g} ± {gain.saved_error:.2g}".replace("-", "\N{MINUS SIGN}"),
            f"{change(gain.quality)} ± {100 * gain.quality_error:.1f}",
            gain.verdict,
        ]
        table.add_row(*map(Text, cells))
    return table


def _figures(figures: Figures) -> list[str]:
    same = figures.drop == 0 and figures.drop_error == 0
    difference = "-" if same else f"{change(-figures.drop)} ± {100 * figures.drop_error:.1f}"
    saved = percent(figures.saving, 0)
    return [ms(figures.cost_ms), saved, percent(figures.quality), difference]


def _notes(plan: Plan, shown: Pick) -> Iterator[str]:
    rows, last = plan.rows, plan.alone[-1]
    yield (
        f"Chosen on {rows['choose']} rows, measured on {rows['judge']} others; the {rows['left']} "
        "that a calibration with this seed certifies on were not looked at."
    )
    yield (
        f"Some expert is right on {percent(plan.ceiling)} of rows. A perfect gate over all "
        f"{len(plan.experts)} would reach {percent(plan.oracle_quality)} at "
        f"{ms(plan.oracle_cost_ms)} ms; over those of {shown.name}, "
        f"{percent(shown.oracle_quality)} at {ms(shown.oracle_cost_ms)} ms."
    )
    for better in plan.alone[:-1]:
        if better.drop < 0:
            gain = f"{change(-better.drop)} ± {100 * better.drop_error:.1f} pp"
            yield f"{better.experts[0]} alone is no worse than {last.experts[0]}: {gain}."
    for pick in plan.picks:
        wanted, found = pick.goal.get("drop"), pick.figures
        if wanted is not None and found.drop - 2 * found.drop_error > wanted:
            yield f"{pick.name} is missed on the rows measured on: more rows would choose better."


def _wanted(pick: Pick) -> str:
    words = {
        "drop": lambda value: f"drop {change(value, sign=False)} pp",
        "mean_ms": lambda value: f"{ms(value)} ms",
        "worst_ms": lambda value: f"worst {ms(value)} ms",
    }
    return ", ".join(words[key](value) for key, value in pick.goal.items())


def _table(first: str, second: str, *numbers: str) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(escape(first), no_wrap=True)
    table.add_column(escape(second), overflow="fold")
    for name in numbers:
        table.add_column(escape(name), justify="right", overflow="fold")
    return table
