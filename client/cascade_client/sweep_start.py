"""From the words of a command to a sweep: what the server has, the rows, the folder."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .address import Address
from .calls import digest_of
from .client import CascadeClient
from .compare import candidates_of
from .perf_analyzer import PerfAnalyzer
from .perf_data import write_rows
from .rows import read_rows
from .status import Status
from .sweep import Plan, Sweep, Swept
from .sweep_store import Store

__all__ = ["sweep"]


def sweep(
    url: str,
    cascade: str,
    *,
    folder: Path,
    plan: Plan,
    paths: Sequence[Path] = (),
    n_random: int | None = None,
    most_rows: int = 2000,
    points: Sequence[str] = (),
    baselines: bool = False,
    again: bool = False,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> tuple[Swept, Store]:
    """Sweep a served cascade.

    Args:
        url: The server's gRPC address.
        cascade: Name of the cascade.
        folder: Where levels and CSV are kept.
        plan: What is measured.
        paths: Files and folders with input rows.
        n_random: Random rows instead of files.
        most_rows: Distinct rows that are sent at most, drawn by the seed.
        points: Operating points; empty: all.
        baselines: Add the largest and the smallest tier alone.
        again: Measure anew what is kept.
        clock: Seconds, monotonic.
        progress: Told how far it is.

    Returns:
        What came of it, and what the folder keeps.

    Raises:
        CascadeError: If something asked for is not there, perf_analyzer is missing, or no level
            could be measured.
    """
    perf = PerfAnalyzer.find()
    version = perf.version()
    with (
        CascadeClient(url, cascade) as client,
        tempfile.TemporaryDirectory(prefix="sweep-") as scratch,
    ):
        policy = client.policy().policy
        candidates = candidates_of(client.spec(), policy, points, baselines=baselines)
        port = candidates[0].port
        rows = read_rows(paths, n_random, port, plan.seed)
        data = Path(scratch) / "rows.json"
        n_rows, digest = write_rows(data, port, rows, most=most_rows, seed=plan.seed)
        setting = {
            **_served(client, client.status()),
            "host": Address.parse(url).host,
            "rows": digest,
            "n_rows": n_rows,
            "batch": plan.batch,
            "seed": plan.seed,
            "perf_analyzer": version,
        }
        store = Store(folder, setting, [one.name for one in candidates], again=again)
        swept = Sweep(
            client=client,
            perf=perf,
            grpc_url=Address.parse(url).netloc,
            data=data,
            candidates=candidates,
            policy=policy,
            store=store,
            plan=plan,
            clock=clock,
            progress=progress,
        ).run()
    return swept, store


def _served(client: CascadeClient, status: Status) -> dict[str, Any]:
    """Say what is served, by all that changes a measurement."""
    served = client.policy()
    # Neither the default point nor when a policy was made changes what a named point does.
    policy = replace(served.policy, default=served.policy.points[0].name, provenance={})
    manifest = json.dumps(served.manifest, sort_keys=True)
    parts = [part.model for part in status.parts if part.role != "control"]
    return {
        "cascade": status.cascade,
        "server": status.server,
        "tiers": [tier.name for tier in policy.tiers],
        "policy": digest_of(policy.to_json().encode()),
        "built": digest_of(manifest.encode()),
        "models": {model: client.spec(model).digest for model in parts},
    }
