"""The first run: build a demo cascade, serve it on the real Triton, ask it, compare, stop.

Every step is a command of the toolkit, shown before it runs, so that each can be repeated by hand.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from cascade_builder.demo import notes, photos
from cascade_client import CascadeClient
from cascade_router.errors import CascadeError
from cascade_router.serve import Server, free_ports

SHOWN = {"imagenet": 4, "pitch": 6}
"""How many answers are printed; all rows are used for the table."""


@click.command()
@click.option("--cascade", type=click.Choice(sorted(SHOWN)), default="imagenet", show_default=True)
@click.option("--repository", type=click.Path(path_type=Path), default=Path("model_repository"))
@click.option("--seconds", default=1.5, show_default=True, help="Load per candidate and round.")
def main(cascade: str, repository: Path, seconds: float) -> None:
    """Run the demo."""
    start = time.monotonic()
    run("cascade-builder", "build", cascade, "--repository", str(repository))
    log = Path("build") / f"{cascade}-server.log"
    server = Server(repository=repository, ports=free_ports(), log=log)
    say(f"starting tritonserver on {repository} (log: {log})")
    with server:
        with CascadeClient(server.grpc_url, cascade) as client:
            client.wait_ready()
            certified = client.policy().policy.certified
        say(f"ready: gRPC on {server.grpc_url}, every tier has answered")
        place = ["--repository", str(repository), "--url", server.grpc_url]
        run("cascade-builder", "verify", cascade, *place)
        files = [str(path) for path in inputs(cascade)]
        ask = ["cascade-client", "--url", server.grpc_url, "--cascade", cascade]
        run(*ask, "infer", *files[: SHOWN[cascade]], "--top", "2")
        load = ["--concurrency", "8", "--seconds", str(seconds), "--rounds", "3"]
        run(*ask, "bench", *files, "--baselines", *load)
        say(f"{len(files)} inputs, some like nothing the experts learned: a first look")
        if not certified:
            say("these points are thresholds by hand; `cascade-builder calibrate` certifies some")
    say(f"stopped; {time.monotonic() - start:.0f} s in all")


def inputs(cascade: str) -> list[Path]:
    """Lay out the files to ask with: scikit-image's photos, or notes written as arrays."""
    folder = Path("build") / {"imagenet": "photos", "pitch": "notes"}[cascade]
    folder.mkdir(parents=True, exist_ok=True)
    if cascade == "imagenet":
        return [Path(shutil.copy(path, folder)) for path in photos.paths()]
    paths = []
    for midi, row in zip(notes.PITCHES, notes.rows(), strict=True):
        name = notes.names()[notes.bin_of(440.0 * 2 ** ((midi - 69) / 12))].split()[0]
        paths.append(folder / f"{midi}-{name}.npy")
        np.save(paths[-1], row)
    return paths


def run(*command: str) -> None:
    """Show a command, short of its long list of files, and run it."""
    files = [word for word in command if Path(word).suffix in {".png", ".jpg", ".npy"}]
    words = [word for word in command if word not in files[1:]]
    shown = shlex.join(words)
    more = f"  # and {len(files) - 1} more" if len(files) > 1 else ""
    print(f"\n$ {shown}{more}", flush=True)
    # The commands of this environment, whatever PATH says.
    subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)


def say(text: str) -> None:
    """Tell what the demo itself does."""
    print(f"# {text}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except CascadeError as error:
        sys.exit(f"Error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
