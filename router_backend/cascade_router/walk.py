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

__all__ = ["ABSTAINED", "CUT_SHORT", "ON_TIER_FAILURE", "TIER_FAILED", "Step", "Walk"]

ABSTAINED = -1
"""The label of a row that no expert is sure enough of."""

TIER_FAILED, CUT_SHORT = 1, 2
"""How an answer is degraded: it does without a tier that failed; its time was over before."""

ON_TIER_FAILURE = ["fail", "best_so_far", "escalate"]
"""What may become of rows whose tier failed."""


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
        degraded: (N,) int32, 0 as the policy says, ``TIER_FAILED`` or ``CUT_SHORT``.

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
        self.degraded = np.zeros(n, dtype=np.int32)

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
        """Decide rows, whatever their gates say."""
        self.tier[rows] = DECIDED

    def do_without(self, tier: int, rows: Ints, how: str) -> npt.NDArray[np.bool_]:
        """Go on without a tier that failed.

        A row that goes on waits for the next tier that its point runs and its request allows.

        Args:
            tier: The tier that failed.
            rows: (n,) int, rows that wait for it.
            how: ``fail``: no row goes on, nor has an answer. ``best_so_far``: rows with an answer
                are decided by it, others go on. ``escalate``: all go on; where no tier is left,
                they are decided by the answer they have.

        Returns:
            (n,) bool, rows that are lost: decided, and without an answer.
        """
        self.degraded[rows] = np.maximum(self.degraded[rows], TIER_FAILED)
        if how == "fail":
            self.stop(rows)
            return np.ones(len(rows), dtype=bool)
        target = self.policy.gates.above(tier, self.point[rows], self._max_tier[rows])
        answered = self.exit_tier[rows] >= 0
        if how == "best_so_far":
            target = np.where(answered, DECIDED, target)
        self.tier[rows] = target
        return np.asarray(~answered & (target == DECIDED))

    def cut_short(self, rows: Ints) -> npt.NDArray[np.bool_]:
        """Decide rows whose time is over by the best answer so far.

        Returns:
            (n,) bool, rows that are lost: they have no answer.
        """
        self.degraded[rows] = CUT_SHORT
        self.stop(rows)
        return np.asarray(self.exit_tier[rows] < 0)

    def lower(self, tier: int, rows: Ints) -> npt.NDArray[np.bool_]:
        """Let rows whose time does not suffice for a tier start below, at their lowest tier.

        Args:
            tier: The tier that is too slow for them.
            rows: (n,) int, rows that wait for it and have no answer.

        Returns:
            (n,) bool, rows that are lost: their requests allow no lower tier, or they were let
            down before.
        """
        lost = (self._min_tier[rows] >= tier) | (self.degraded[rows] == CUT_SHORT)
        self.tier[rows] = np.where(lost, DECIDED, self._min_tier[rows])
        self.degraded[rows] = CUT_SHORT
        return np.asarray(lost)

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
