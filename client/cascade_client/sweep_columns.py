"""The columns of ``sweep.csv``: what is written is what the help page explains."""

from __future__ import annotations

__all__ = ["COLUMNS", "TIER_COLUMNS"]

COLUMNS = {
    "candidate": "operating point, or an expert alone",
    "load": "concurrency (closed loop) or rate (open loop)",
    "level": "requests at once, or requests per second",
    "seconds": "length of the measurement",
    "state": "ok; behind: fewer rows answered than offered; failed: see note",
    "note": "why it failed",
    "when": "when it ended",
    "requests": "requests that ended in it",
    "rows_per_s": "rows answered per second",
    "p50_ms": "median latency from when a request was sent; p90_ms to p99_ms likewise",
    "p90_ms": "",
    "p95_ms": "",
    "p99_ms": "",
    "rows_spread": "(most - least) / most throughput of three windows: 0 = steady",
    "latency_spread": "the same of their mean latencies",
}
"""Columns of ``sweep.csv`` and what they say; those without words are said by the one before."""

TIER_COLUMNS = {
    "reached": "share of the rows that reached the tier, 0 to 1",
    "mean_batch": "rows that ran together there",
    "queue_ms": "mean wait of a call before it ran",
    "compute_ms": "of the expert, per row",
}
"""Further columns for each tier, its name after an underscore."""
