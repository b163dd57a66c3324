"""``cascade-client bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .console import (
    Target,
    files_argument,
    json_option,
    print_json,
    print_table,
    progress_bar,
    wrong_usage,
)

__all__ = ["bench"]


@click.command()
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
    "--model",
    "models",
    multiple=True,
    metavar="M",
    help="Also measure this expert, called directly; repeat for several. Without "
    "--point and --baselines only these are measured.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    metavar="N",
    help="Closed loop: N callers, each sends when its answer came.  [default: 32]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="R",
    help="Open loop: R requests per second at random moments; latency counts from "
    "the moment a request was due.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Length of each candidate's turn.",
)
@click.option(
    "--requests",
    type=click.IntRange(1),
    metavar="N",
    help="End a turn after N requests, if that is sooner.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Turns of each candidate; the median is shown.",
)
@click.option(
    "--warmup",
    "warmup_s",
    type=click.FloatRange(0),
    default=0.5,
    show_default=True,
    metavar="S",
    help="Seconds of load before each turn that are not counted.",
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
    help="Send N random rows instead of FILES: loads a server that takes numbers; "
    "exits and agreement then mean nothing.",
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
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Longest wait for one answer.",
)
@json_option
@click.pass_obj
def bench(
    target: Target,
    /,
    files: tuple[Path, ...],
    points: tuple[str, ...],
    baselines: bool,
    models: tuple[str, ...],
    rounds: int,
    n_random: int | None,
    as_json: bool,
    **load: Any,
) -> None:
    """Measure throughput, latency, exit shares and agreement under load.

    The rows of FILES (pictures, text files with a text a line, or .npy arrays; a folder stands for
    the files in it) are sent in a seeded order. Every candidate gets its turn in several rounds.
    Agreement is the share of rows answered as the largest expert answers them.

    \b
    Examples:
      cascade-client bench photos/ --baselines
      cascade-client bench photos/ --point fast --rate 40 --seconds 20
      cascade-client bench --model imagenet_null --random 64 --concurrency 64
    """
    if bool(files) == (n_random is not None):
        wrong_usage("give either FILES or --random N")
    if load["rate"] is not None and load["concurrency"] is not None:
        wrong_usage("give either --concurrency or --rate")
    from .bench import Load, run_precisely
    from .compare import measure

    chosen = Load(**{key: value for key, value in load.items() if value is not None})
    with progress_bar() as progress:
        comparison = run_precisely(
            measure(
                target.url,
                target.cascade,
                paths=files,
                n_random=n_random,
                points=points,
                models=models,
                baselines=baselines,
                load=chosen,
                n_rounds=rounds,
                progress=progress,
            )
        )
    if as_json:
        print_json({"url": target.url, "cascade": target.cascade, **comparison.as_json()})
        return
    from .report import comparison_table

    print_table(comparison_table(comparison))
