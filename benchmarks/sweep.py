"""``make sweep``: a demo cascade on the real server, over levels of load by perf_analyzer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from cascade_client import CascadeClient
from cascade_client.perf_analyzer import PerfAnalyzer
from cascade_router.errors import CascadeError
from cascade_router.serve import Server, free_ports

from .cascades import files_of
from .demo import run, say


@click.command()
@click.option("--cascade", type=click.Choice(["imagenet", "pitch"]), default="imagenet")
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"))
@click.argument("options", nargs=-1)
def main(cascade: str, repository: Path, data: Path, options: tuple[str, ...]) -> None:
    """Build, serve, sweep, stop; OPTIONS go to ``cascade-client sweep``."""
    PerfAnalyzer.find()  # before minutes are spent on building
    run("cascade-builder", "build", cascade, "--repository", str(repository))
    files, what = files_of(cascade, data)
    log = Path("build") / f"{cascade}-sweep.log"
    with Server(repository=repository, ports=free_ports(), log=log) as server:
        with CascadeClient(server.grpc_url, cascade) as client:
            client.wait_ready()
        say(f"tritonserver on {repository}, gRPC on {server.grpc_url} (log: {log}); {what}")
        ask = ["cascade-client", "--url", server.grpc_url, "--cascade", cascade]
        run(*ask, "sweep", *files, "--out", f"build/sweep/{cascade}", *options)


if __name__ == "__main__":
    try:
        main()
    except CascadeError as error:
        sys.exit(f"Error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
