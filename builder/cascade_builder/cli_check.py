"""``cascade-builder check``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .checks import Finding

__all__ = ["check"]


@click.command()
@click.argument(
    "repositories",
    nargs=-1,
    metavar="[REPOSITORY]...",
    type=click.Path(file_okay=False, path_type=Path),
)
@click.option("--json", "as_json", is_flag=True, help="Write what was found as JSON.")
@click.pass_context
def check(ctx: click.Context, repositories: tuple[Path, ...], as_json: bool) -> None:
    """Hold a model repository against what Triton is known to do, without a server.

    REPOSITORY is a folder of models, those of others included; several are taken as one server
    loads them together.  [default: model_repository]

    Looks at configs, files, ensembles, routers and their experts, and at what TensorRT alone
    knows, so also at repositories for machines other than this one. Each finding says what is
    wrong, why it matters and what to do.

    \b
    Exit status:
      0  nothing, or warnings: it loads and answers, but something costs more than it need
      1  errors: it does not load, or answers wrongly
    """
    from .checks import check as run

    folders = repositories or (Path("model_repository"),)
    models, found = run(folders)
    errors = sum(one.level == "error" for one in found)
    if as_json:
        report = {
            "repositories": [str(folder) for folder in folders],
            "models": models,
            "errors": errors,
            "warnings": len(found) - errors,
            "findings": [one.as_json() for one in found],
        }
        click.echo(json.dumps(report, indent=2))
    else:
        for line in _lines(found):
            click.echo(line)
        where = ", ".join(map(str, folders))
        counts = f"{_count(errors, 'error')}, {_count(len(found) - errors, 'warning')}"
        click.echo(f"{where}: {_count(len(models), 'model')}, {counts}")
    ctx.exit(1 if errors else 0)


def _lines(found: Sequence[Finding]) -> Iterator[str]:
    """Write findings for people."""
    for one in found:
        yield f"{one.level} in {one.model} ({one.rule}): {one.what}"
        yield f"  why: {one.why}"
        yield f"  help: {one.fix}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
