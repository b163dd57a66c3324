"""Time the exact frontier on one core: `python -m benchmarks.frontier`."""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np

from cascade_builder.cost_tables import Costs
from cascade_builder.frontier import cuts, grid_frontier

from .provenance import save

CASES = [(3, 50_000, 200, 150.0), (4, 50_000, 64, 1500.0)]
"""Tiers, rows, thresholds per gate, milliseconds allowed."""


def once(n_tiers: int, n_rows: int, n_edges: int, seed: int) -> float:
    """Time cuts and frontier of one random cascade, in milliseconds."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n_rows)
    scores, right = [], []
    for k in range(n_tiers):
        skill = 0.6 + 0.35 * (k + 1) / n_tiers
        right.append(hard + 0.1 * rng.standard_normal(n_rows) < skill)
        score = skill - hard + 0.2 * rng.standard_normal(n_rows)
        scores.append(score.astype(np.float32).astype(np.float64))
    sizes = tuple(np.log([1.0, 4.0, 16.0]) for _ in range(n_tiers))
    table = tuple(np.array([3.0, 1.5, 1.0]) * 4.0**k for k in range(n_tiers))
    costs = Costs(16.0, sizes, table)
    start = time.perf_counter()
    edges = [cuts(score, n_edges) for score in scores[:-1]]
    grid_frontier(scores[:-1], right, costs, tuple(range(n_tiers)), edges)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Print the median of nine runs of every case."""
    rows = []
    for n_tiers, n_rows, n_edges, allowed in CASES:
        took = statistics.median(once(n_tiers, n_rows, n_edges, seed) for seed in range(9))
        rows.append(
            {
                "tiers": n_tiers,
                "rows": n_rows,
                "edges": n_edges,
                "median_ms": round(took, 1),
                "allowed_ms": allowed,
            }
        )
    if "--save" in sys.argv:
        save("frontier", {"cases": rows})
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return
    print("tiers    rows  edges  median ms  allowed ms")
    for row in rows:
        print("{tiers:5}  {rows:6}  {edges:5}  {median_ms:9}  {allowed_ms:10}".format(**row))


if __name__ == "__main__":
    main()
