"""``cascade-builder calibrate``."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import common_options
from .goal_options import goals_from, goals_option
from .spec import Spec
from .status_line import status_line

if TYPE_CHECKING:
    from .calibration import Outcome

__all__ = ["calibrate"]


@click.command()
@click.argument("spec")
@common_options.records()
@common_options.repository("Model repository that gets the policy; it may be serving.")
@goals_option(
    "point",
    "A point that is wanted; KIND is drop, mean-ms, worst-ms or efficiency, several by comma. "
    "[default: careful, balanced, fast with drops that so many rows can support]",
)
@click.option(
    "--efficiency",
    type=float,
    metavar="E",
    help="One point: from 0, the best quality, to 1, the cheapest.",
)
@click.option(
    "--default",
    metavar="POINT",
    help="Point of a request that names none; it must be certified.  [default: promises most]",
)
@click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    metavar="P",
    help="Probability that all promises of the ladder hold.",
)
@common_options.batch()
@click.option(
    "--labels/--agreement",
    "with_labels",
    default=None,
    help="Promise accuracy, or agreement with the last expert.  [default: labels if recorded]",
)
@common_options.seed()
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the report.  [default: build/CASCADE/report]",
)
@click.option("--no-report", is_flag=True, help="Draw no report.")
@click.option("--force", is_flag=True, help="Write the policy even if it does not pay to cascade.")
@click.option("--dry-run", is_flag=True, help="Calibrate and print; write nothing.")
@common_options.json_report("verdict")
def calibrate(
    spec: str,
    records_file: Path | None,
    repository: Path,
    goals: dict[str, dict[str, float]],
    drop: float | None,
    mean_ms: float | None,
    worst_ms: float | None,
    efficiency: float | None,
    default: str | None,
    level: float,
    batch: float | None,
    with_labels: bool | None,
    seed: int,
    report: Path | None,
    no_report: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Choose operating points of SPEC that keep a promise; write policy.json and a report.

    Reads the records only; no expert runs. A running server takes the new policy within a second;
    the one before stays as policy.json.old. Points that cannot be certified are left out and
    named; if none can, or the cascade does not pay, nothing is put in force: exit status 1.

    \b
    Examples:
      cascade-builder calibrate imagenet
      cascade-builder calibrate imagenet --drop 0.02
      cascade-builder calibrate imagenet --goal safe=drop:0.01 --goal cheap=mean-ms:12
      cascade-builder calibrate imagenet --agreement --level 0.99 --dry-run
    """
    from .calibration import Asked, calibrate_spec, refused

    short = {
        "drop": drop,
        "mean_ms": mean_ms,
        "worst_ms": worst_ms,
        "efficiency": efficiency,
    }
    read = Spec.find(spec)
    asked = Asked(
        goals=goals_from(goals, short),
        default=default,
        level=level,
        batch=batch,
        with_labels=with_labels,
        seed=seed,
    )
    with status_line() as tell:
        outcome = calibrate_spec(
            read,
            asked,
            records_file=records_file or Path("build") / read.name / "records.npz",
            repository=repository,
            report=None if no_report else report or Path("build") / read.name / "report",
            now=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            dry_run=dry_run,
            force=force,
            tell=tell,
        )
    _show(outcome, as_json=as_json)
    if (error := refused(outcome)) is not None:
        raise error


def _show(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(outcome.as_json(), indent=2, allow_nan=False))
        return
    from .ladder_table import print_verdict

    print_verdict(outcome.verdict, sys.stdout)
    done = outcome.policy
    if done != "kept" and outcome.dry_run and done != "not written":
        done = f"would be {done}"
    if outcome.policy == "replaced":
        done += ", the one before is policy.json.old"
    click.echo(f"{outcome.policy_file}: {done}")
    if outcome.report is not None:
        click.echo(f"{outcome.report}: {'would be written' if outcome.dry_run else 'written'}")
    for note in outcome.notes:
        click.echo(f"note: {note}", err=True)
