"""``cascade-builder deploy`` and ``rollback``: change what a running server serves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cascade_router.keys import FILE_VARIABLE, Keys

from . import common_options
from .spec import TARGETS, Spec
from .status_line import progress_lines

if TYPE_CHECKING:
    from .deployment import Deployment

__all__ = ["deploy", "rollback"]

_SHARED = [
    click.option(
        "--url",
        default="localhost:8001",
        show_default=True,
        help="Host and gRPC port of the running server.",
    ),
    common_options.repository("The model repository that it serves."),
    click.option(
        "--keys",
        envvar=FILE_VARIABLE,
        show_envvar=True,
        type=click.Path(dir_okay=False, path_type=Path),
        help="Key file of a guarded server.",
    ),
    common_options.json_report(),
]


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_SHARED):
        command = option(command)
    return command


@click.command()
@click.argument("spec")
@_shared
@click.option("--target", type=click.Choice(TARGETS), help="What runs the experts.")
@common_options.artifacts("Keeps built experts, so that only what changed is built again.")
@click.option(
    "--policy",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="A policy.json that was calibrated for the new experts.",
)
@click.option(
    "--uncertified",
    is_flag=True,
    help="Give certificates up that do not hold for the new experts.",
)
def deploy(
    spec: str,
    url: str,
    repository: Path,
    keys: Path | None,
    as_json: bool,
    target: str | None,
    artifacts: Path,
    policy: Path | None,
    uncertified: bool,
) -> None:
    """Bring a running server to what SPEC asks for, without a failed request.

    SPEC is a cascade.toml, or the name of a packaged one. What changed is built and loaded beside
    what serves, asked the golden rows that were kept when it was built, and switched to in one
    step. If anything fails before, what served before serves on.
    """
    from .deploy import deploy as run
    from .memory import Limits
    from .running import TritonServer

    done = run(
        Spec.find(spec),
        repository,
        TritonServer(url, None if keys is None else Keys.read(keys)),
        target,
        artifacts_folder=artifacts,
        policy=policy,
        uncertified=uncertified,
        limits=Limits.usual(None, None),
        tell=progress_lines(),
    )
    _show(done, as_json)


@click.command()
@click.argument("cascade")
@_shared
def rollback(cascade: str, url: str, repository: Path, keys: Path | None, as_json: bool) -> None:
    """Go back to the edition of CASCADE that was served before, in the same way.

    Done twice, what was in force at first is in force again.
    """
    from .deploy import rollback as run
    from .running import TritonServer

    server = TritonServer(url, None if keys is None else Keys.read(keys))
    _show(run(cascade, repository, server, tell=progress_lines()), as_json)


def _show(done: Deployment, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(done.as_json(), indent=2))
        return
    if done.action == "nothing":
        click.echo(
            f"{done.cascade}: nothing to do, router version {done.router} serves at {done.url}, "
            f"{done.seconds:.1f} s"
        )
        return
    for name, action in done.experts.items():
        version = f", version {done.versions[name]}" if name in done.versions else ""
        click.echo(f"  expert {name}: {action}{version}")
    click.echo(f"  policy: {done.policy}")
    click.echo(
        f"  golden rows: {done.checked['experts']} experts and "
        f"{done.checked['answers']} answers of the router are right"
    )
    click.echo(
        f"{done.cascade}: {done.action}, router version {done.router} serves at {done.url}, "
        f"version {done.before} is kept, {done.seconds:.1f} s"
    )
