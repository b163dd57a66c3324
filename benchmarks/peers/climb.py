"""What every Python cascade does between its calls: probabilities, gates, and who is left.

Shapes: n rows of one request, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_client.calls import Array

__all__ = ["Climb"]


class Climb:
    """The rows of one request on their way up.

    Args:
        n: How many.
        classes: C.
        thresholds: One per gate; who passes the last of them goes to a tier that answers all.

    Attributes:
        left: (m,) int, the rows that the next tier must run.
    """

    def __init__(self, n: int, classes: int, thresholds: Sequence[float]) -> None:
        self.left = np.arange(n)
        self._thresholds = thresholds
        self._tier = 0
        self._tiers = np.zeros((n, 1), dtype=np.int32)
        self._scores = np.empty((n, classes), dtype=np.float32)

    def take(self, probs: Array) -> None:
        """Take the (m, C) probabilities of the rows that were left."""
        self._scores[self.left] = probs
        self._tiers[self.left] = self._tier
        if self._tier == len(self._thresholds):
            self.left = self.left[:0]
        else:
            # Not "below": a NaN must escalate.
            self.left = self.left[~(probs.max(axis=1) >= self._thresholds[self._tier])]
        self._tier += 1

    def answers(self) -> dict[str, Array]:
        """Give the outputs as the router does: SCORES (n, C), the others (n, 1)."""
        return {
            "SCORES": self._scores,
            "LABEL": self._scores.argmax(axis=1).astype(np.int32)[:, None],
            "CONFIDENCE": self._scores.max(axis=1)[:, None],
            "TIER": self._tiers,
        }
