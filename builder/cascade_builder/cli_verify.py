"""``cascade-builder verify``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from . import common_options
from .spec import Spec
from .status_line import status_line

__all__ = ["verify"]

_INCOMPLETE = 3


@click.command()
@click.argument("spec")
@common_options.repository("Model repository that was built.")
@common_options.artifacts("Where the build keeps the graphs of its experts.")
@click.option(
    "--rows",
    "n_rows",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Real rows of the spec to take, at most.",
)
@click.option(
    "--server/--no-server",
    "serve",
    default=True,
    help="Start tritonserver on the repository, on free ports, and ask it too.  [default: server]",
)
@click.option("--url", metavar="HOST:PORT", help="Ask this running server (gRPC) instead.")
@common_options.json_report()
@click.pass_context
def verify(
    ctx: click.Context,
    spec: str,
    repository: Path,
    artifacts: Path,
    n_rows: int,
    serve: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Compare what is served of SPEC with what it was made of, after every conversion.

    Torch with the ONNX graph, the graph with the file that is served, the file with what Triton
    answers: all on the same real rows, alone and in batches, within a tolerance by precision.

    \b
    Exit status:
      0  all answer alike
      1  something differs, or fails: the message names the conversion, and the layer if it can
      3  nothing differs, but something cannot be checked on this machine
    """
    from .verification import verify as run
    from .verification.report import DIFFERS, NOT_CHECKED, print_report

    read = Spec.find(spec)
    with status_line() as tell:
        report = run(
            read,
            repository,
            artifacts_folder=artifacts,
            n_rows=n_rows,
            serve=serve or url is not None,
            url=url,
            tell=tell,
        )
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, allow_nan=False))
    else:
        print_report(report, sys.stdout)
    for step in report.steps(DIFFERS):
        click.echo(f"Error: {step.why}", err=True)
        if step.hint is not None:
            click.echo(f"help: {step.hint}", err=True)
    if report.steps(DIFFERS):
        ctx.exit(1)
    ctx.exit(_INCOMPLETE if report.steps(NOT_CHECKED) else 0)
