"""``make bench``: all tables, in one run on this machine, written to ``benchmarks/results/``."""

from __future__ import annotations

from pathlib import Path

import click

from . import cascades, overhead
from .provenance import save

_DATA = Path(__file__).parents[2] / "shared" / "data"


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=_DATA, help="Labelled data.")
@click.option("--only", type=click.Choice(["imagenet", "pitch", "overhead"]), multiple=True)
@click.option("--repeats", default=5, show_default=True, help="Turns of each candidate.")
def main(data: Path, only: tuple[str, ...], repeats: int) -> None:
    """Measure, print and save."""
    for name in only or ("imagenet", "pitch", "overhead"):
        if name == "overhead":
            values = overhead.measure(repeats=repeats)
        else:
            values = cascades.measure(name, data, rounds=repeats)
        print(save(name, values))


if __name__ == "__main__":
    main()
