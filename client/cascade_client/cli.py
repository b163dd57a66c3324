"""``cascade-client``: the command line of the client.

Only click is imported here; what a command needs it imports when it runs, so that help is fast.
"""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cascade_router.errors import CascadeError, RequestError
from cascade_router.keys import FILE_VARIABLE

from .address import Address
from .cli_bench import bench
from .cli_sweep import sweep
from .console import (
    Group,
    Target,
    files_argument,
    json_option,
    print_json,
    print_table,
    progress_bar,
    wrong_usage,
)

if TYPE_CHECKING:
    from .answer import Answer
    from .client import CascadeClient

__all__ = ["main"]


def _checked_url(ctx: click.Context, parameter: click.Parameter, url: str) -> str:
    try:
        Address.parse(url)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc
    return url


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url",
    default="localhost:8001",
    show_default=True,
    callback=_checked_url,
    help="grpc://HOST:PORT, http://HOST:PORT, or HOST:PORT for gRPC.",
)
@click.option("--cascade", default="imagenet", show_default=True, help="Name of the cascade.")
@click.option(
    "--keys",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=FILE_VARIABLE,
    show_envvar=True,
    metavar="FILE",
    help="Key file, for a guarded server: to switch its policy, and to see all of its status.",
)
@click.version_option(package_name="triton-cascade")
@click.pass_context
def main(ctx: click.Context, url: str, cascade: str, keys: Path | None) -> None:
    """Ask a cascade served by Triton, load it, look at it.

    \b
    Examples:
      cascade-client infer cat.jpg dog.jpg
      cascade-client --cascade pitch infer notes.npy --point fast
      cascade-client bench photos/ --baselines --concurrency 64
      cascade-client sweep photos/ --target-p99-ms 300
      cascade-client status

    Results go to stdout, everything else to stderr. Exit status: 0 done, 1 an error that is
    explained, 2 wrong usage.
    """
    ctx.obj = Target(url, cascade, keys)


@main.command()
@files_argument
@click.option("--point", metavar="P", help="Operating point; default: the server's.")
@click.option(
    "--efficiency",
    type=click.FloatRange(0, 1),
    metavar="E",
    help="Instead of a point: 0 for the safest certified one to 1 for the cheapest.",
)
@click.option("--min-tier", type=click.IntRange(0), metavar="N", help="Lowest tier to answer.")
@click.option("--max-tier", type=click.IntRange(0), metavar="N", help="Highest tier to answer.")
@click.option(
    "--deadline-ms",
    type=click.FloatRange(0, min_open=True),
    metavar="MS",
    help="Time for each answer: a tier that cannot make it is not started.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    metavar="K",
    help="Classes to show.",
)
@json_option
@click.pass_obj
def infer(
    target: Target,
    files: tuple[Path, ...],
    point: str | None,
    efficiency: float | None,
    min_tier: int | None,
    max_tier: int | None,
    deadline_ms: float | None,
    top: int,
    as_json: bool,
) -> None:
    """Answer FILES: pictures, text files with a text a line, or .npy arrays, as the cascade takes.

    A folder stands for the files in it. Each row is sent by itself, so its milliseconds are its
    own. A row that is refused is reported and the others are answered; exit status 1 then.

    \b
    Examples:
      cascade-client infer cat.jpg
      cascade-client infer photos/ --point accurate --top 1
      cascade-client infer cat.jpg --min-tier 2 --json
      cascade-client --cascade intents infer questions.txt
    """
    if not files:
        wrong_usage("give FILES to answer")
    choice = {
        "point": point,
        "efficiency": efficiency,
        "min_tier": min_tier,
        "max_tier": max_tier,
        "deadline_ms": deadline_ms,
    }
    with target.client() as client, progress_bar() as progress:
        answered, failed = _infer_files(client, files, choice, progress)
    if as_json:
        print_json([{"row": name, **answer.as_json(top)} for name, answer in answered])
    elif answered:
        from .report import answer_table

        print_table(answer_table(answered, top))
    if failed:
        raise click.exceptions.Exit(1)


def _infer_files(
    client: CascadeClient, paths: tuple[Path, ...], choice: dict[str, Any], progress: Any
) -> tuple[list[tuple[str, Answer]], int]:
    from .rows import files_in, read_file, row_names

    port = client.spec().inputs[0]
    files = files_in(paths, port)
    answered: list[tuple[str, Answer]] = []
    failed = 0
    for i, path in enumerate(files):
        progress(i, len(files), path.name)
        try:
            rows = read_file(path, port)
        except RequestError as exc:
            failed += 1
            _report(exc, exc.message)
            continue
        for name, row in zip(row_names(path, rows, port), rows, strict=True):
            try:
                (answer,) = client.infer([row], **choice)
            except RequestError as exc:
                failed += 1
                _report(exc, f"{name}: {exc.message}")
            else:
                answered.append((name, answer))
    return answered, failed


def _report(exc: CascadeError, message: str) -> None:
    click.echo(f"Error: {message}", err=True)
    if exc.hint:
        click.echo(f"help: {exc.hint}", err=True)


@main.command()
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0),
    metavar="S",
    help="First wait up to S seconds until every tier has answered a row.",
)
@json_option
@click.pass_obj
def status(target: Target, wait_s: float | None, as_json: bool) -> None:
    """Show the server, the parts of the cascade, its tiers and operating points.

    Exit status 1 if any part is not ready.

    \b
    Examples:
      cascade-client status
      cascade-client status --wait 60 --json
    """
    with target.client() as client:
        if wait_s is not None:
            client.wait_ready(wait_s)
        found = client.status()
    if as_json:
        print_json(found.as_json())
    else:
        from .report import part_table, point_table, tier_table

        state = "ready" if found.ready else "not ready"
        click.echo(f"{found.cascade} on {found.server} at {found.url}: {state}")
        print_table(part_table(found))
        if found.served is not None:
            print_table(tier_table(found))
            print_table(point_table(found.served))
            if found.served.refused is not None:
                click.echo(
                    f"the policy file is refused, the last good one serves: {found.served.refused}"
                )
    if not found.ready:
        raise click.exceptions.Exit(1)


main.add_command(bench)
main.add_command(sweep)


@main.group()
def policy() -> None:
    """See and switch the operating points by which the cascade decides."""


@policy.command("list")
@json_option
@click.pass_obj
def policy_list(target: Target, as_json: bool) -> None:
    """List the operating points, cheapest first.

    \b
    Example:
      cascade-client policy list
    """
    with target.client() as client:
        served = client.policy()
    if as_json:
        policy = served.as_json()["policy"]
        print_json({"default_point": served.default_point, "points": policy["points"]})
        return
    from .report import point_table

    print_table(point_table(served))


@policy.command("show")
@json_option
@click.pass_obj
def policy_show(target: Target, as_json: bool) -> None:
    """Show the policy in force: points, provenance, switches.

    \b
    Example:
      cascade-client policy show --json
    """
    with target.client() as client:
        served = client.policy()
    if as_json:
        print_json(served.as_json())
        return
    from .report import point_table

    policy = served.policy
    click.echo(f"cascade {policy.cascade}: {len(policy.tiers)} tiers, {policy.n_classes} classes")
    print_table(point_table(served))
    for key, value in policy.provenance.items():
        click.echo(f"{key}: {value}")
    for entry in served.history:
        click.echo("switched " + ", ".join(f"{key} {value}" for key, value in entry.items()))


@policy.command("set")
@click.argument("point")
@click.option("--who", default=getpass.getuser, metavar="NAME", help="Recorded by the server.")
@json_option
@click.pass_obj
def policy_set(target: Target, point: str, who: str, as_json: bool) -> None:
    """Make POINT the default of the running cascade, within a second and without a reload.

    It holds for every request that names no point, and after a restart too.

    \b
    Example:
      cascade-client policy set exact
    """
    with target.client() as client:
        change = client.set_point(point, who)
    if as_json:
        print_json(change)
        return
    click.echo(f"default point: {change['was']} -> {change['point']}, recorded at {change['when']}")
