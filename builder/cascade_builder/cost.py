"""What an expert costs: milliseconds per batch, measured.

Shapes: N rows.
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

_LEAST_RUNS = 3
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
    run: Callable[[npt.NDArray[Any]], object],
    rows: npt.NDArray[Any],
    sizes: Sequence[int],
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Measure the median cost of one batch at each size.

    Args:
        run: Takes (n, ...) canonical rows.
        rows: (N, ...) real rows; taken again and again where a batch needs more.
        sizes: Batch sizes.
        budget_s: Seconds to spend in all; every size gets one warm-up and at least 3 runs.
        clock: Seconds.

    Returns:
        Milliseconds per batch by batch size.
    """
    costs = {}
    for size in sizes:
        batch = np.resize(rows, (size, *rows.shape[1:]))
        run(batch)
        times: list[float] = []
        while len(times) < _MOST_RUNS:
            start = clock()
            run(batch)
            times.append(clock() - start)
            if len(times) >= _LEAST_RUNS and sum(times) >= budget_s / len(sizes):
                break
        costs[size] = round(1e3 * statistics.median(times), 4)
    return costs


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
