"""The way of rows up the tiers: the one loop over tiers in this project.

The walk does no I/O. It says which tier to run for which rows and takes the logits; calibration
replays records through it, the Triton backend drives it with BLS, tests drive it with fakes:

    walk = Walk(policy, point=point)
    while (step := walk.next()) is not None:
        walk.settle(step.tier, step.rows, run(step.tier, rows[step.rows]))

Rows are independent: which rows share a walk, and in which order they are settled, changes no
answer. Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .gate import DECIDED, Ints
from .policy import Policy
from .scores import Floats, probabilities

__all__ = ["ABSTAINED", "Step", "Walk"]

ABSTAINED = -1
"""The label of a row that no expert is sure enough of."""


@dataclass(frozen=True, slots=True)
class Step:
    """Run this tier for these rows.

    Attributes:
        tier: Index of the tier.
        rows: (n,) int64, ascending row numbers, n > 0.
    """

    tier: int
    rows: npt.NDArray[np.int64]


class Walk:
    """N rows on their way, and the answers of those that arrived.

    An answer is always the best so far: a row that has run a tier has one, decided or not.

    Attributes:
        policy: Decides.
        point: (N,) int64, index of each row's operating point.
        tier: (N,) int64, tier each row waits for, or ``DECIDED``.
        label: (N,) int32, answered class; -1 before the first tier ran, or ``ABSTAINED``.
        confidence: (N,) float32, probability of the label; NaN before the first tier ran.
        exit_tier: (N,) int32, tier that answered; -1 before the first tier ran.
        scores: (N, C) float32, probabilities of all classes; NaN before the first tier ran.

    Args:
        policy: Decides.
        point: (N,) int, index of each row's operating point.
        min_tier: (N,) int or int, lowest tier that may answer.
        max_tier: (N,) int or int, highest tier that may answer; at least ``min_tier``.
        abstain_below: A row that the last tier of the cascade answers with a lower score gets the
            label ``ABSTAINED``; its confidence and scores stay.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        point: Ints,
        min_tier: Ints | int = 0,
        max_tier: Ints | int | None = None,
        abstain_below: float = -math.inf,
    ) -> None:
        n, last = len(point), len(policy.tiers) - 1
        self.policy = policy
        self.point = np.asarray(point, dtype=np.int64)
        self._abstain_below = abstain_below
        self._max_tier = _per_row(last if max_tier is None else max_tier, n)
        self._n_ran = np.zeros(n, dtype=np.float32)
        self._min_tier = _per_row(min_tier, n)
        self.tier = policy.gates.first(self.point, self._min_tier, self._max_tier)
        self.label = np.full(n, -1, dtype=np.int32)
        self.confidence = np.full(n, np.nan, dtype=np.float32)
        self.exit_tier = np.full(n, -1, dtype=np.int32)
        self.scores = np.full((n, policy.n_classes), np.nan, dtype=np.float32)

    @property
    def decided(self) -> npt.NDArray[np.bool_]:
        """(N,) bool, rows that need no further tier."""
        return np.asarray(self.tier == DECIDED)

    def next(self) -> Step | None:
        """Say the lowest tier that rows wait for, and which rows; None when all are decided."""
        waiting = self.tier[self.tier != DECIDED]
        if not len(waiting):
            return None
        tier = int(waiting.min())
        return Step(tier, np.flatnonzero(self.tier == tier))

    def settle(self, tier: int, rows: Ints, logits: Floats) -> Floats:
        """Take a tier's logits: the rows it satisfies are decided, the rest wait further up.

        Args:
            tier: Index of the tier that ran.
            rows: (n,) int, the rows it ran for; each waits for this tier.
            logits: (n, C) float.

        Returns:
            (n,) float64, the scores that decided.
        """
        if logits.shape != (len(rows), self.policy.n_classes):
            expected = (len(rows), self.policy.n_classes)
            message = f"tier {tier}: expected logits {expected}, got {logits.shape}"
            raise ValueError(message)
        score = self.policy.tiers[tier].score
        activation = self.policy.activation
        with np.errstate(all="ignore"):  # an expert's NaN and inf are no fault here: they escalate
            probs = probabilities(logits, activation, score.temperature)
            values = score.of(logits, probs, activation)
        point, max_tier = self.point[rows], self._max_tier[rows]
        self._answer(tier, rows, probs)
        if self._abstain_below > -math.inf and tier == len(self.policy.tiers) - 1:
            self.label[rows[~(values >= self._abstain_below)]] = ABSTAINED  # NaN abstains too
        self.tier[rows] = self.policy.gates.next(tier, values, point, max_tier)
        return values

    def stop(self, rows: Ints) -> None:
        """Decide rows by the best answer so far, whatever their gates say."""
        self.tier[rows] = DECIDED

    def lower(self, rows: Ints) -> None:
        """Let rows that ran no tier yet start at the lowest one their requests allow."""
        self.tier[rows] = self._min_tier[rows]

    def _answer(self, tier: int, rows: Ints, probs: Floats) -> None:
        if self.policy.answer == "mean":
            n = self._n_ran[rows][:, None]
            before = np.where(n > 0, self.scores[rows], np.float32(0))
            probs = (before * n + probs) / (n + 1)
            self._n_ran[rows] += 1
        label = probs.argmax(axis=1)
        self.scores[rows] = probs
        self.label[rows] = label
        self.confidence[rows] = probs[np.arange(len(rows)), label]
        self.exit_tier[rows] = tier


def _per_row(value: Ints | int, n: int) -> Ints:
    return value if isinstance(value, np.ndarray) else np.full(n, value)
