"""``cascade-builder plan``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from cascade_router.errors import RecordsError

from . import common_options
from .goal_options import goals_from, goals_option
from .spec import Spec
from .status_line import status_line

__all__ = ["plan"]


@click.command()
@click.argument("pool")
@common_options.records()
@goals_option(
    "goal",
    "What is wanted; KIND is drop, mean-ms or worst-ms, several by comma. "
    "[default: drops that so many rows can tell, and half and a quarter of the largest's cost]",
)
@click.option(
    "--most",
    type=click.IntRange(1, 8),
    default=4,
    show_default=True,
    metavar="N",
    help="Experts in a cascade, at most.",
)
@common_options.batch()
@click.option(
    "--labels/--agreement",
    "with_labels",
    default=None,
    help="Judge by accuracy, or by agreement with the costliest.  [default: labels if recorded]",
)
@common_options.seed()
@common_options.json_report("plan")
def plan(
    pool: str,
    records_file: Path | None,
    goals: dict[str, dict[str, float]],
    drop: float | None,
    mean_ms: float | None,
    worst_ms: float | None,
    most: int,
    batch: float | None,
    with_labels: bool | None,
    seed: int,
    as_json: bool,
) -> None:
    """Say which experts of POOL to cascade, in which order, for which budget.

    POOL is a spec whose experts were recorded, or the records themselves (.npz). Shows the
    cheapest cascade for every drop and the best for every budget, what each expert of the pool
    brings to it and how sure that is, and what a perfect gate would do. Writes nothing: keep the
    [[expert]] tables you want, then build, record and calibrate.

    \b
    Examples:
      cascade-builder plan imagenet
      cascade-builder plan imagenet --drop 0.02
      cascade-builder plan pool.npz --goal safe=drop:0.01 --goal cheap=mean-ms:5 --json
    """
    from .plan import plan as run
    from .plan_table import print_plan
    from .records import Records

    wanted = goals_from(goals, {"drop": drop, "mean_ms": mean_ms, "worst_ms": worst_ms})
    path = records_file or _records(pool)
    if not path.is_file():
        message = f"{path}: there are no records"
        raise RecordsError(message, hint=f"run `cascade-builder record {pool} --data D`")
    with status_line() as tell:
        tell("reading the records")
        found = run(
            Records.load(path),
            wanted,
            batch=batch,
            with_labels=with_labels,
            most=most,
            seed=seed,
            tell=tell,
        )
    if as_json:
        click.echo(json.dumps(found.as_json(), indent=2, allow_nan=False))
        return
    names = [pick.name for pick in found.picks]
    print_plan(found, names[0] if wanted or "balanced" not in names else "balanced", sys.stdout)


def _records(pool: str) -> Path:
    if pool.endswith(".npz"):
        return Path(pool)
    return Path("build") / Spec.find(pool).name / "records.npz"
