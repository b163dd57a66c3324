"""The demo cascades under load on the real server, every point beside the experts alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cascade_builder.build import build
from cascade_builder.demo import notes, photos
from cascade_builder.spec import Spec
from cascade_client import CascadeClient
from cascade_router.serve import Server, free_ports

from . import prepare_pitch

__all__ = ["files_of", "measure", "rows_of"]

_SCRATCH = Path("build")


def measure(
    cascade: str, data: Path, *, concurrency: int = 16, seconds: float = 4, rounds: int = 5
) -> dict[str, Any]:
    """Run ``cascade-client bench --json`` on a cascade.

    Args:
        cascade: A packaged spec.
        data: Folder with labelled data; where it is absent the bundled demo rows are used.
        concurrency: Requests under way at once.
        seconds: Of load per candidate and round.
        rounds: Turns of each candidate; medians are reported.

    Returns:
        What the command printed, and which rows it was.
    """
    repository = _SCRATCH / f"model_repository-bench-{cascade}"
    build(Spec.find(cascade), repository)
    files, rows = files_of(cascade, data)
    verdict = _calibrate(cascade, data, repository)
    log = _SCRATCH / f"{cascade}-bench.log"
    with Server(repository=repository, ports=free_ports(), log=log) as server:
        with CascadeClient(server.grpc_url, cascade) as client:
            client.wait_ready()
            policy = client.policy().policy
        printed = _run(
            *("cascade-client", "--url", server.grpc_url, "--cascade", cascade),
            *("bench", *files, "--baselines", "--json", "--rounds", str(rounds)),
            *("--concurrency", str(concurrency), "--seconds", str(seconds)),
        )
    return {
        "cascade": cascade,
        "rows": rows,
        "verdict": verdict,
        "policy": json.loads(policy.to_json()),
        "bench": json.loads(printed),
    }


def _calibrate(cascade: str, data: Path, repository: Path) -> dict[str, Any] | None:
    """Record and calibrate the built experts; None where there is no labelled data."""
    source = {
        "imagenet": data / "imagenet_val1300" / "labels.csv",
        "pitch": data / "pitch" / "timgm_frames3000.npz",
    }[cascade]
    if not source.exists():
        return None
    if cascade == "pitch":
        frames = _SCRATCH / "pitch" / "frames.npz"
        prepare_pitch.prepare(source, frames)
        source = frames
    at = ("--repository", str(repository))
    _run("cascade-builder", "record", cascade, "--data", str(source), *at)
    printed = _run("cascade-builder", "calibrate", cascade, *at, "--no-report", "--json")
    found: dict[str, Any] = json.loads(printed)
    return found


def _run(program: str, *arguments: str) -> str:
    command = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def rows_of(cascade: str, data: Path, limit: int) -> tuple[list[Any], str]:
    """Read rows as a client would send them, and say what they are."""
    files, what = files_of(cascade, data)
    if cascade == "pitch":
        return list(np.load(files[0])[:limit]), what
    paths = [path for name in files for path in _pictures(Path(name))]
    return [path.read_bytes() for path in paths[:limit]], what


def _pictures(path: Path) -> list[Path]:
    return sorted(path.iterdir()) if path.is_dir() else [path]


def files_of(cascade: str, data: Path) -> tuple[list[str], str]:
    """Name the files to send and say what they are."""
    if cascade == "imagenet":
        folder = data / "imagenet_val1300" / "images"
        if folder.is_dir():
            return [str(folder)], "1300 labelled photos"
        return [str(path) for path in photos.paths()], "scikit-image's bundled photos"
    source = data / "pitch" / "timgm_frames3000.npz"
    file = _SCRATCH / "pitch-rows.npy"
    if source.exists():
        rows, what = np.load(source)["x"].astype(np.float32), "3000 frames of rendered notes"
    else:
        rows, what = np.stack(notes.rows()), "synthesised notes"
    np.save(file, rows)
    return [str(file)], what
