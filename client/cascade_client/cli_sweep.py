"""``cascade-client sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cascade_router.errors import RequestError, ServerError

from .address import Address
from .console import (
    Target,
    files_argument,
    json_option,
    print_json,
    print_table,
    progress_bar,
    wrong_usage,
)
from .levels import Level, levels_in
from .sweep_columns import COLUMNS, TIER_COLUMNS

if TYPE_CHECKING:
    from .sweep import Plan, Swept

__all__ = ["sweep"]

_DEFAULT = "1:64:x2"


def _levels(
    ctx: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    try:
        return None if text is None else levels_in(text, whole=parameter.name == "concurrency")
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


def _columns() -> str:
    """Explain the columns of the CSV for the help page."""
    words = {name: text for name, text in COLUMNS.items() if text}
    words |= {f"{name}_TIER": text for name, text in TIER_COLUMNS.items()}
    lines = [f"  {name:<15} {text}" for name, text in words.items()]
    return "\b\nColumns of sweep.csv:\n" + "\n".join(lines)


@click.command(epilog=_columns())
@files_argument
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="P",
    help="Operating point to measure; repeat for several. Default: all of them.",
)
@click.option(
    "--baselines", is_flag=True, help="Also measure the largest and the smallest expert alone."
)
@click.option(
    "--concurrency",
    callback=_levels,
    metavar="LEVELS",
    help="Closed loops: 8, or 1,4,16, or FROM:TO:STEP, or FROM:TO:xFACTOR.  [default: "
    f"{_DEFAULT} where neither --rate nor a target is given]",
)
@click.option(
    "--rate",
    callback=_levels,
    metavar="LEVELS",
    help="Open loops: requests per second at random moments, written alike.",
)
@click.option(
    "--target-p99-ms",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Search the highest rate at which 99 % of the requests are answered within X ms.",
)
@click.option(
    "--target-p95-ms",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="The same for 95 %.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0.01, 1),
    default=0.05,
    show_default=True,
    metavar="T",
    help="How near the search comes, as a share of the rate.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.2),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Length of one measurement; the search takes longer at low rates, so that there are "
    "100 requests.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="M",
    help="No measurement begins later; the same command goes on another time.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="B",
    help="Rows per request.",
)
@click.option(
    "--random",
    "n_random",
    type=click.IntRange(1),
    metavar="N",
    help="Send N random rows instead of FILES: what the tiers then see means nothing.",
)
@click.option(
    "--rows",
    "most_rows",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Distinct rows to send at most, drawn by the seed.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    metavar="N",
    help="Of the order of rows and of the random moments.",
)
@click.option(
    "--out",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Where levels, CSV and plots are kept.  [default: sweep-CASCADE]",
)
@click.option("--again", is_flag=True, help="Measure anew what is kept there.")
@click.option("--no-plots", is_flag=True, help="Draw nothing.")
@json_option
@click.pass_obj
def sweep(
    target: Target,
    /,
    files: tuple[Path, ...],
    folder: Path | None,
    no_plots: bool,
    as_json: bool,
    n_random: int | None,
    **options: Any,
) -> None:
    """Measure operating points over levels of load by NVIDIA's perf_analyzer.

    The rows of FILES (pictures or .npy arrays; a folder stands for the files in it) are sent in a
    seeded order, by gRPC. For every level the server's counters say what each tier did: share of
    rows that reached it, mean batch, queue and compute time. Levels that the folder holds of the
    same server, models, policy and rows are not measured again.

    Writes sweep.csv (a line per candidate and level), a plot of all candidates and one of each.

    \b
    Examples:
      cascade-client sweep photos/ --concurrency 1:64:x2 --baselines
      cascade-client sweep photos/ --point fast --rate 20:100:20
      cascade-client sweep photos/ --target-p99-ms 300 --json
    """
    if bool(files) == (n_random is not None):
        wrong_usage("give either FILES or --random N")
    if Address.parse(target.url).scheme != "grpc":
        wrong_usage("operating points reach perf_analyzer's requests by gRPC only: give that --url")
    plan = _plan(options)
    from .sweep_start import sweep as run

    folder = folder or Path(f"sweep-{target.cascade}")
    with progress_bar() as progress:
        swept, store = run(
            target.url,
            target.cascade,
            folder=folder,
            plan=plan,
            paths=files,
            n_random=n_random,
            progress=progress,
            **options,
        )
    if as_json:
        print_json(
            {
                "url": target.url,
                "setting": store.setting,
                "csv": str(store.csv),
                "levels": [one.as_json() for one in swept.levels],
                "found": [one.as_json() for one in swept.found],
            }
        )
    else:
        _show(swept, store.setting["tiers"], store.csv)
    if not no_plots:
        from .sweep_plots import draw

        for path in draw(store.all(), folder):
            click.echo(f"drawn: {path}", err=True)
    _refuse(swept)


def _plan(options: dict[str, Any]) -> Plan:
    """Take from the options what says what is measured."""
    from .measured import Target as Goal
    from .sweep import Plan

    p99, p95 = options.pop("target_p99_ms"), options.pop("target_p95_ms")
    if p99 is not None and p95 is not None:
        wrong_usage("give either --target-p99-ms or --target-p95-ms")
    goal = Goal(99, p99) if p99 is not None else Goal(95, p95) if p95 is not None else None
    concurrency, rate = options.pop("concurrency"), options.pop("rate")
    if concurrency is None and rate is None and goal is None:
        concurrency = levels_in(_DEFAULT, whole=True)
    seconds = options.pop("seconds")
    return Plan(
        levels=(
            *(Level(load="concurrency", value=n, seconds=seconds) for n in concurrency or ()),
            *(Level(load="rate", value=value, seconds=seconds) for value in rate or ()),
        ),
        seconds=seconds,
        target=goal,
        **{key: options.pop(key) for key in ("batch", "seed", "tolerance", "minutes")},
    )


def _show(swept: Swept, tiers: list[str], csv: Path) -> None:
    from .report import found_table, level_table

    print_table(level_table(swept.levels, tiers))
    for one in swept.levels:
        if one.note:
            click.echo(f"{one.candidate}, {one.level}: {one.note}")
    if swept.found:
        print_table(found_table(swept.found))
    click.echo(f"written: {csv}", err=True)


def _refuse(swept: Swept) -> None:
    """End with status 1 where not all that was asked for could be given."""
    if swept.left:
        message = f"sweep: out of time with {swept.left} left"
        raise ServerError(message, hint="the same command goes on; or give more --minutes")
    if swept.found and all(one.level is None for one in swept.found):
        near = "; ".join(f"{one.candidate}: {one.refusal()}" for one in swept.found)
        message = f"sweep: no rate keeps {swept.found[0].target}: {near}"
        raise RequestError(message, hint="a looser target, a cheaper point, or more instances")
