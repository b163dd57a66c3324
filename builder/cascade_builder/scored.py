"""Scores, answers and what counts as right, read from records by the code that serves.

Shapes: N rows, C classes, K tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.gate import Gate
from cascade_router.policy import OperatingPoint, Policy, Tier
from cascade_router.scores import FEATURES, Floats, Score, probabilities
from cascade_router.walk import Walk

from .records import Records

__all__ = ["Scored"]

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.integer[Any]]


class Scored:
    """Records seen through scores; everything is computed once and kept.

    Args:
        records: What the tiers said.
        with_labels: Right means the true class; else it means as the last tier answers.

    Attributes:
        records: The same.
        with_labels: The same.
    """

    def __init__(self, records: Records, *, with_labels: bool) -> None:
        if with_labels and records.labels is None:
            message = "with_labels: the records hold no labels"
            raise ValueError(message)
        self.records = records
        self.with_labels = with_labels
        self._features: dict[tuple[int, float], dict[str, Floats]] = {}
        self._labels: dict[tuple[tuple[int, float], ...], Ints] = {}

    @property
    def n_tiers(self) -> int:
        """K."""
        return len(self.records.tiers)

    @property
    def truth(self) -> Ints:
        """(N,) int, the class that counts: the label, or the last tier's answer."""
        if self.with_labels and self.records.labels is not None:
            return self.records.labels
        return self.labels([self.n_tiers - 1], [Score()] * self.n_tiers)

    def score(self, tier: int, score: Score) -> Floats:
        """Score all rows at a tier: (N,) float64."""
        features = self._of(tier, score.temperature)
        if score.learned is not None:
            return score.learned.of([features[kind] for kind in FEATURES])
        return features[score.kind]

    def features(self, tier: int, temperature: float) -> list[Floats]:
        """Give all rows' ``scores.FEATURES`` at a tier: F times (N,) float64."""
        features = self._of(tier, temperature)
        return [features[kind] for kind in FEATURES]

    def labels(self, tiers: Sequence[int], scores: Sequence[Score], answer: str = "last") -> Ints:
        """Say what is answered when exactly these tiers ran, in this order.

        Args:
            tiers: Those that ran, ascending.
            scores: Of all K tiers; their temperatures shape a mean of probabilities.
            answer: One of ``policy.ANSWERS``.

        Returns:
            (N,) int32.
        """
        ran = tuple(tiers) if answer == "mean" else tuple(tiers[-1:])
        key = tuple((tier, scores[tier].temperature) for tier in ran)
        if key not in self._labels:
            self._walk(ran, scores)
        return self._labels[key]

    def right(self, tiers: Sequence[int], scores: Sequence[Score], answer: str = "last") -> Bools:
        """Say which rows are answered right when exactly these tiers ran: (N,) bool."""
        return self.same(self.labels(tiers, scores, answer), self.truth)

    def same(self, labels: Ints, others: Ints) -> Bools:
        """Say where labels count as the same, as ``Policy.same`` does: (N,) bool."""
        distance = np.abs(np.asarray(labels, dtype=np.int64) - np.asarray(others, dtype=np.int64))
        return np.asarray(distance <= self.records.label_tolerance)

    def _of(self, tier: int, temperature: float) -> dict[str, Floats]:
        key = (tier, temperature)
        if key not in self._features:
            parts: dict[str, list[Floats]] = {kind: [] for kind in FEATURES}
            activation = self.records.activation
            for rows in self.records.blocks():
                logits = self.records.tiers[tier].block(rows, self.records.n_classes)
                probs = probabilities(logits, activation, temperature)
                for kind in FEATURES:
                    score = Score(kind=kind, temperature=temperature)
                    parts[kind].append(score.of(logits, probs, activation))
            self._features[key] = {
                kind: np.concatenate(part) if part else np.zeros(0) for kind, part in parts.items()
            }
        return self._features[key]

    def _walk(self, tiers: tuple[int, ...], scores: Sequence[Score]) -> None:
        """Walk all rows through these tiers and keep the answer after each."""
        policy = escorted(self.records, tiers, scores)
        parts: list[list[Ints]] = [[] for _ in tiers]
        for rows in self.records.blocks():
            n = rows.stop - rows.start
            walk = Walk(policy, point=np.zeros(n, dtype=np.int64))
            for part in parts:
                step = walk.next()
                if step is None:
                    message = f"tiers {tiers}: the walk ended before the last of them"
                    raise RuntimeError(message)
                logits = self.records.tiers[step.tier].block(rows, self.records.n_classes)
                walk.settle(step.tier, step.rows, logits)
                part.append(walk.label.copy())
        for j, part in enumerate(parts):
            key = tuple((tier, scores[tier].temperature) for tier in tiers[: j + 1])
            self._labels[key] = np.concatenate(part) if part else np.zeros(0, dtype=np.int32)


def escorted(records: Records, tiers: Sequence[int], scores: Sequence[Score]) -> Policy:
    """Make a policy whose every row runs exactly these tiers and answers by their mean."""
    gates = tuple(
        Gate(threshold=-np.inf if k == tiers[-1] else np.inf, off=k not in tiers)
        for k in range(len(records.tiers))
    )
    return Policy(
        cascade=records.cascade,
        activation=records.activation,
        n_classes=records.n_classes,
        answer="mean",
        label_tolerance=records.label_tolerance,
        tiers=tuple(
            Tier(name=tier.name, model=tier.model, digest=tier.digest, score=score)
            for tier, score in zip(records.tiers, scores, strict=True)
        ),
        points=(OperatingPoint(name="all", gates=gates),),
        default="all",
    )
