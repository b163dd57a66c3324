"""The options by which a command takes goals: ``--goal`` and its short forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .common_options import Option
    from .wish import Goal

__all__ = ["goals_from", "goals_option"]

_KINDS = ("drop", "mean-ms", "worst-ms", "efficiency")
_SHORT = "asked"
"""Name of the point that --drop, --mean-ms, --worst-ms and --efficiency make together."""


def goals_option(each: str, what: str) -> Option:
    """Take ``--goal``, as ``goals``, and the short forms that every command with goals has.

    Args:
        each: What a goal makes: a ``point`` or a ``goal``.
        what: Help of ``--goal``.
    """
    options = [
        click.option(
            "--goal",
            "goals",
            multiple=True,
            callback=_parsed,
            metavar="NAME=KIND:VALUE",
            help=what,
        ),
        _figure_option("--drop", f"One {each}: lose at most this share."),
        _figure_option("--mean-ms", f"One {each}: mean cost of a row at most."),
        _figure_option("--worst-ms", f"One {each}: cost of any row at most."),
    ]

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _figure_option(name: str, what: str) -> Option:
    return click.option(name, type=float, metavar="X", help=what)


def _parsed(
    ctx: click.Context, parameter: click.Parameter, values: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Read NAME=KIND:VALUE[,KIND:VALUE...] into figures by name."""
    goals: dict[str, dict[str, float]] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or name in goals:
            why = "two goals share a name" if equals else "expected NAME=drop:0.01"
            message = f"{value!r}: {why}"
            raise click.BadParameter(message)
        goals[name] = dict(_figure(part, value) for part in text.split(","))
    return goals


def goals_from(
    named: Mapping[str, Mapping[str, float]], short: Mapping[str, float | None]
) -> dict[str, Goal]:
    """Make goals of what ``--goal`` gave, and one of the short forms together."""
    from .wish import Goal

    given = {kind: value for kind, value in short.items() if value is not None}
    if given:
        if _SHORT in named:
            message = f"a goal is named {_SHORT!r}, which --drop and its like make"
            raise click.UsageError(message)
        named = {**named, _SHORT: given}
    return {name: Goal(**figures) for name, figures in named.items()}


def _figure(part: str, value: str) -> tuple[str, float]:
    kind, _, number = part.partition(":")
    kind = kind.strip().replace("_", "-")
    if kind not in _KINDS:
        message = f"{value!r}: {kind!r} is no goal, expected one of {', '.join(_KINDS)}"
        raise click.BadParameter(message)
    try:
        return kind.replace("-", "_"), float(number)
    except ValueError as exc:
        message = f"{value!r}: {number!r} is no number"
        raise click.BadParameter(message) from exc
