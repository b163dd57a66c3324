"""``make bench``: all tables, in one run on this machine, written to ``benchmarks/results/``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import cascades, contest, figures, overhead
from .provenance import save

_DATA = Path(__file__).parents[2] / "shared" / "data"
_QUESTIONS = ["imagenet", "pitch", "overhead", "contest"]


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=_DATA, help="Labelled data.")
@click.option("--only", type=click.Choice(_QUESTIONS), multiple=True)
@click.option("--repeats", default=5, show_default=True, help="Turns of each candidate.")
def main(data: Path, only: tuple[str, ...], repeats: int) -> None:
    """Measure, print and save."""
    for name in only or _QUESTIONS:
        values = _measure(name, data, repeats)
        path = save(name, values)
        print(*filter(None, [path, figures.save(path, values)]), sep="\n")


def _measure(name: str, data: Path, repeats: int) -> dict[str, Any]:
    if name == "overhead":
        return overhead.measure(repeats=repeats)
    if name == "contest":
        return contest.measure("imagenet", data, rounds=repeats)
    return cascades.measure(name, data, rounds=repeats)


if __name__ == "__main__":
    main()
