"""Prometheus counters of the router."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np

from .gate import Ints
from .policy import Policy
from .walk import Walk

__all__ = ["ExitCounter"]


class ExitCounter:
    """``cascade_exits_total{cascade, point, tier}``: rows answered, by point and by tier.

    An increment is a round trip to the server, and two at once on one metric crash it (2.51:
    ``increment`` gives up the GIL while it rewrites the metric's shared memory). So rows are
    counted here and one thread hands the sums over, every ``period_s`` seconds. A server with
    metrics switched off counts nothing.
    """

    def __init__(self, cascade: str, period_s: float = 0.25) -> None:
        import triton_python_backend_utils as pb_utils

        self._cascade = cascade
        self._period_s = period_s
        self._sums: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        # Family and metrics are kept for life: one that is collected crashes later increments.
        self._metrics: dict[tuple[str, str], Any] = {}
        try:
            self._family = pb_utils.MetricFamily(
                name="cascade_exits_total",
                description="Rows answered, by operating point and by the tier that answered",
                kind=pb_utils.MetricFamily.COUNTER,
            )
        except pb_utils.TritonModelException:
            return
        self._thread.start()

    def count(self, policy: Policy, walk: Walk, rows: Ints) -> None:
        """Count rows of a walk that are decided."""
        n_tiers = len(policy.tiers)
        codes = np.bincount(walk.point[rows] * n_tiers + walk.exit_tier[rows])
        with self._lock:
            for code in np.flatnonzero(codes):
                point, tier = divmod(int(code), n_tiers)
                self._sums[policy.points[point].name, policy.tiers[tier].name] += int(codes[code])

    def close(self) -> None:
        """Hand over what is counted and end the thread; a server that is gone is not waited for."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _work(self) -> None:
        closed = False
        while not closed:
            closed = self._closed.wait(self._period_s)
            with self._lock:
                sums, self._sums = self._sums, Counter()
            for (point, tier), n in sums.items():
                self._metric(point, tier).increment(n)

    def _metric(self, point: str, tier: str) -> Any:
        if (point, tier) not in self._metrics:
            labels = {"cascade": self._cascade, "point": point, "tier": tier}
            self._metrics[point, tier] = self._family.Metric(labels=labels)
        return self._metrics[point, tier]
