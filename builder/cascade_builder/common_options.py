"""Options that several commands take: one spelling, one default, one type."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["Option", "artifacts", "batch", "json_report", "records", "repository", "seed"]

Option = Callable[[Any], Any]
"""Adds an option to a command."""


def repository(what: str) -> Option:
    """Take ``--repository``; ``what`` says what the command does with it."""
    return _folder("--repository", "model_repository", what)


def artifacts(what: str) -> Option:
    """Take ``--artifacts``; ``what`` says what the command does with it."""
    return _folder("--artifacts", "build", what)


def records() -> Option:
    """Take ``--records``, as ``records_file``."""
    return click.option(
        "--records",
        "records_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="What `record` wrote.  [default: build/CASCADE/records.npz]",
    )


def batch() -> Option:
    """Take ``--batch``."""
    return click.option(
        "--batch",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        help="Mean rows per batch that arrives.  [default: 8]",
    )


def seed() -> Option:
    """Take ``--seed``."""
    return click.option(
        "--seed", type=int, default=0, show_default=True, metavar="N", help="Of the split."
    )


def json_report(what: str = "report") -> Option:
    """Take ``--json``, as ``as_json``; ``what`` is then written."""
    return click.option("--json", "as_json", is_flag=True, help=f"Write the {what} as JSON.")


def _folder(name: str, default: str, what: str) -> Option:
    return click.option(
        name,
        default=default,
        show_default=True,
        type=click.Path(file_okay=False, path_type=Path),
        help=what,
    )
