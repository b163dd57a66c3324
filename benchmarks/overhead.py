"""What the router costs: null experts through ours, through the tutorials' router, and directly."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from cascade_client.perf_analyzer import PerfAnalyzer
from cascade_router.serve import Server, free_ports

from . import null

__all__ = ["CANDIDATES", "measure"]

CANDIDATES = {"direct": "null_t0", "ours": "null_router", "per-request BLS": "null_per_request"}


def measure(
    *,
    concurrencies: tuple[int, ...] = (32,),
    shares: tuple[float, ...] = (0.0, 0.3),
    repeats: int = 5,
) -> dict[str, Any]:
    """Load every candidate at every concurrency and share of escalating rows, in turns.

    Returns:
        ``overhead``: one entry per setting with the medians over the repeats (requests per second,
        p50 ms) and all repeats, so that the spread can be seen.
    """
    perf = PerfAnalyzer.find()
    entries = []
    with tempfile.TemporaryDirectory(prefix="null-") as scratch:
        folder = Path(scratch)
        null.write(folder)
        with Server(
            repository=folder, ports=free_ports(), log=Path("build/null-server.log")
        ) as server:
            for concurrency in concurrencies:
                for share in shares:
                    data = [
                        {"X": {"content": [float(v) for v in row], "shape": [len(row)]}}
                        for row in null.traffic(share)
                    ]
                    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
                    for _ in range(repeats):
                        for name, model in CANDIDATES.items():
                            got = perf.measure(
                                model,
                                server.grpc_url,
                                data,
                                concurrency=concurrency,
                                window_ms=1000,
                            )
                            runs[name].append({"rows_per_s": got.rows_per_s, "p50_ms": got.p50_ms})
                    entries.append(_entry(concurrency, share, runs))
    return {"overhead": entries}


def _entry(
    concurrency: int, share: float, runs: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    ours = median("ours", "rows_per_s")
    return {
        "concurrency": concurrency,
        "escalating": share,
        "median": {
            name: {key: round(median(name, key), 3) for key in ("rows_per_s", "p50_ms")}
            for name in runs
        },
        "ours_to_direct": round(ours / median("direct", "rows_per_s"), 3),
        "ours_to_per_request": round(ours / median("per-request BLS", "rows_per_s"), 3),
        "runs": runs,
    }


if __name__ == "__main__":
    for entry in measure(repeats=3)["overhead"]:
        print({key: value for key, value in entry.items() if key != "runs"})
