"""What experts cost: milliseconds per batch, measured side by side.

A machine's speed drifts over seconds and hours. Experts that take turns drift alike, so that the
ratio of their costs, which is what a cascade saves by, stays true. Shapes: N rows.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import SpecError

__all__ = ["MARGIN", "batch_sizes", "check_order", "measure"]

MARGIN = 0.8
"""A later tier must cost at least this share of an earlier one: measured costs are noisy."""

_LEAST_RUNS = 5
_MOST_RUNS = 50


def batch_sizes(max_batch: int) -> list[int]:
    """Say 1, 2, 4, ... and ``max_batch`` itself.

    Example:
        >>> batch_sizes(12)
        [1, 2, 4, 8, 12]
    """
    sizes = [2**k for k in range(max_batch.bit_length()) if 2**k < max_batch]
    return [*sizes, max_batch]


def measure(
    runs: Mapping[str, Callable[[npt.NDArray[Any]], object]],
    rows: npt.NDArray[Any],
    sizes: Sequence[int],
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, dict[int, float]]:
    """Measure the median cost of one batch of every expert at each size.

    Args:
        runs: Takes (n, ...) canonical rows, by name of the expert.
        rows: (N, ...) real rows; taken again and again where a batch needs more.
        sizes: Batch sizes.
        budget_s: Seconds to spend in all; at every size each expert gets one warm-up and at
            least 5 runs, whatever they take.
        clock: Seconds.
        progress: Takes sizes done and sizes in all.

    Returns:
        Milliseconds per batch by batch size, by name of the expert.
    """
    costs: dict[str, dict[int, float]] = {name: {} for name in runs}
    for i, size in enumerate(sizes):
        progress(i, len(sizes))
        batch = np.resize(rows, (size, *rows.shape[1:]))
        for run in runs.values():
            run(batch)
        for name, times in _rounds(runs, batch, budget_s / len(sizes), clock).items():
            costs[name][size] = round(1e3 * statistics.median(times), 4)
    progress(len(sizes), len(sizes))
    return costs


def _rounds(
    runs: Mapping[str, Callable[[npt.NDArray[Any]], object]],
    batch: npt.NDArray[Any],
    budget_s: float,
    clock: Callable[[], float],
) -> dict[str, list[float]]:
    """Let the experts take turns; give the seconds of every run."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    spent = 0.0
    for done in range(_MOST_RUNS):
        if done >= _LEAST_RUNS and spent >= budget_s:
            break
        for name, run in runs.items():
            start = clock()
            run(batch)
            times[name].append(clock() - start)
            spent += times[name][-1]
    return times


def check_order(costs: Mapping[str, Mapping[int, float]]) -> None:
    """Refuse tiers that are not ordered cheap to costly.

    Args:
        costs: Milliseconds per batch by batch size, of each expert in the order of its tier.

    Raises:
        SpecError: If a later tier costs clearly less per row than the one before it.
    """
    best = {name: min(ms / size for size, ms in sizes.items()) for name, sizes in costs.items()}
    names = list(best)
    for before, after in itertools.pairwise(names):
        if best[after] < MARGIN * best[before]:
            message = (
                "tiers must be ordered cheap to costly; "
                f"{after!r} costs {best[after]:.3g} ms a row, {before!r} before it "
                f"{best[before]:.3g} ms"
            )
            order = ", ".join(sorted(names, key=lambda name: best[name]))
            raise SpecError(message, hint=f"order the [[expert]] tables: {order}")
