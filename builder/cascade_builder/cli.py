"""``cascade-builder``: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cascade_router.errors import CascadeError

from . import common_options
from .cli_calibrate import calibrate
from .cli_check import check
from .cli_deploy import deploy, rollback
from .cli_plan import plan
from .cli_record import record
from .cli_verify import verify
from .spec import TARGETS, Spec
from .status_line import progress_lines

__all__ = ["main"]


class _Group(click.Group):
    """Turns our errors into two lines on stderr and exit code 1; others keep their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except CascadeError as error:
            click.echo(f"Error: {error.message}", err=True)
            if error.hint is not None:
                click.echo(f"help: {error.hint}", err=True)
            ctx.exit(1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="triton-cascade")
def main() -> None:
    """Make a cascade that Triton serves."""


main.add_command(record)
main.add_command(calibrate)
main.add_command(plan)
main.add_command(check)
main.add_command(verify)
main.add_command(deploy)
main.add_command(rollback)


@main.command()
@click.argument("spec")
@common_options.repository("Model repository; folders of other cascades stay.")
@click.option("--target", type=click.Choice(TARGETS), help="What runs the experts.")
@common_options.artifacts("Keeps built experts, so that only what changed is built again.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Most experts built side by side; 1: one after the other.  [default: one a core]",
)
@click.option(
    "--memory-gb",
    type=click.FloatRange(min=0, min_open=True),
    help="Most memory they may take together, in GiB.  [default: 80 % of what is free]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done and why; write nothing.")
@common_options.json_report()
def build(
    spec: str,
    repository: Path,
    target: str | None,
    artifacts: Path,
    jobs: int | None,
    memory_gb: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build the experts of SPEC and lay out the repository.

    SPEC is a cascade.toml, or the name of a packaged one: imagenet, pitch.
    """
    from .build import build as run
    from .build_report import summary
    from .memory import Limits

    report = run(
        Spec.find(spec),
        repository,
        target,
        artifacts_folder=artifacts,
        dry_run=dry_run,
        limits=Limits.usual(jobs, memory_gb),
        tell=progress_lines(),
    )
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        click.echo(summary(report), nl=False)
