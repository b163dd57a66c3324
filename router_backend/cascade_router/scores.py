"""Probabilities and scores of one tier's logits. A score is higher where the answer is safer.

Shapes: N rows, C classes. Everything is computed row by row in float32 (the dtype served), so a
row's score does not depend on its batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import PolicyError
from .strict import Table

__all__ = ["ACTIVATIONS", "FEATURES", "SCORES", "Floats", "Learned", "Score", "probabilities"]

Floats = npt.NDArray[np.floating[Any]]

ACTIVATIONS = ["softmax", "sigmoid"]
"""How logits become probabilities: classes that exclude each other, or independent ones."""

FEATURES = ["max_prob", "margin", "neg_entropy", "energy", "logit_gap"]
"""Scores that need no training; a learned score is made of them."""

SCORES = [*FEATURES, "learned"]
"""The kinds of score a gate may compare."""


def probabilities(logits: Floats, activation: str, temperature: float = 1.0) -> Floats:
    """Turn logits into probabilities.

    Args:
        logits: (N, C) float, raw outputs of one tier.
        activation: One of ``ACTIVATIONS``.
        temperature: Divides the logits; above 1 softens (Guo et al. 2017).

    Returns:
        (N, C) float32 in [0, 1]; a softmax row sums to 1. NaN logits give NaN.
    """
    z = np.asarray(logits, dtype=np.float32)
    if temperature != 1.0:
        z = z / np.float32(temperature)
    if activation == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    # tanh form: no overflow at either end.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """A logistic regression on ``FEATURES``; its log-odds are the score.

    Attributes:
        weights: One per feature, for the standardised feature.
        means: One per feature, subtracted.
        scales: One per feature, above 0, divided by.
        bias: Log-odds of a row with mean features.
    """

    weights: tuple[float, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    bias: float

    def of(self, features: Sequence[Floats]) -> Floats:
        """Give the log-odds of every row.

        Args:
            features: One (N,) float array per feature, in the order of ``FEATURES``.

        Returns:
            (N,) float64: added up feature by feature, since a matrix product may round a row
            differently in another batch.
        """
        parts = zip(features, self.weights, self.means, self.scales, strict=True)
        total = np.full(len(features[0]), self.bias)
        for values, weight, mean, scale in parts:
            total += (values.astype(np.float64) - mean) * (weight / scale)
        return total

    @classmethod
    def from_table(cls, table: Table) -> Learned:
        """Read from a table of ``policy.json``: weight, mean and scale of every feature."""
        rows = [table.numbers(name) for name in FEATURES]
        for name, row in zip(FEATURES, rows, strict=True):
            if len(row) != 3 or not row[2] > 0:
                message = f"{table.where}.{name}: got {row}, expected weight, mean, scale above 0"
                raise PolicyError(message, hint="run `cascade-builder calibrate`")
        weights, means, scales = zip(*rows, strict=True)
        learned = cls(weights=weights, means=means, scales=scales, bias=table.number("bias"))
        table.done()
        return learned

    def as_json(self) -> dict[str, object]:
        """Write what ``from_table`` reads."""
        rows = zip(FEATURES, self.weights, self.means, self.scales, strict=True)
        return {"bias": self.bias} | {name: list(row) for name, *row in rows}

    def __post_init__(self) -> None:
        """Refuse weights that cannot score."""
        lengths = {len(self.weights), len(self.means), len(self.scales)}
        values = (*self.weights, *self.means, *self.scales, self.bias)
        if lengths != {len(FEATURES)} or not all(map(math.isfinite, values)):
            message = f"expected {len(FEATURES)} finite weights, means and scales, got {self}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How one tier's safety is read from its logits.

    Attributes:
        kind: One of ``SCORES``.
        temperature: Divides the logits first.
        learned: Weights of the kind ``learned``; None for every other kind.
    """

    kind: str = "max_prob"
    temperature: float = 1.0
    learned: Learned | None = None

    def of(self, logits: Floats, probs: Floats, activation: str) -> Floats:
        """Score every row.

        Args:
            logits: (N, C) float, raw outputs of one tier, C >= 2.
            probs: (N, C) float32, ``probabilities`` of them at this temperature.
            activation: One of ``ACTIVATIONS``.

        Returns:
            (N,) float64. NaN where the logits hold one: such a row never exits by its score.

        Example:
            >>> z = np.array([[2.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
            >>> p = probabilities(z, "softmax")
            >>> Score(kind="margin").of(z, p, "softmax").round(2)
            array([0.68, 0.04])
        """
        if self.learned is None:
            score = self._feature(self.kind, logits, probs, activation)
        else:
            score = self.learned.of(
                [self._feature(kind, logits, probs, activation) for kind in FEATURES]
            )
        return np.asarray(score, dtype=np.float64)

    def _feature(self, kind: str, logits: Floats, probs: Floats, activation: str) -> Floats:
        match kind:
            case "max_prob":
                return np.asarray(probs.max(axis=1))
            case "margin":
                return _gap(probs)
            case "neg_entropy":
                return _neg_entropy(probs, activation)
            case "energy":
                return _energy(logits, self.temperature, activation)
            case "logit_gap":
                return _gap(np.asarray(logits, dtype=np.float32))
            case _:
                message = f"score kind {kind!r} is unknown"
                raise ValueError(message)

    @classmethod
    def from_table(cls, table: Table) -> Score:
        """Read from a table of ``policy.json``."""
        kind = table.choice("kind", SCORES, "max_prob")
        temperature = table.number("temperature", 1.0, low=1e-3, high=1e3)
        learned = Learned.from_table(table.table("learned")) if table.has("learned") else None
        table.done()
        return cls(kind=kind, temperature=temperature, learned=learned)

    def as_json(self) -> dict[str, object]:
        """Write what ``from_table`` reads."""
        out: dict[str, object] = {"kind": self.kind, "temperature": self.temperature}
        if self.learned is not None:
            out["learned"] = self.learned.as_json()
        return out

    def __post_init__(self) -> None:
        """Refuse a score that cannot be computed."""
        if self.kind not in SCORES or not self.temperature > 0:
            message = f"policy: score {self.kind!r} at temperature {self.temperature} is unusable"
            raise PolicyError(message, hint=f"expected one of {', '.join(SCORES)}, above 0")
        if (self.kind == "learned") != (self.learned is not None):
            message = f"policy: score {self.kind!r} with weights {self.learned}"
            raise PolicyError(message, hint="weights belong to the kind 'learned', and only there")


def _gap(values: Floats) -> Floats:
    """Largest minus second largest of each row; NaN if the row holds one."""
    top = np.partition(values, values.shape[1] - 2, axis=1)[:, -2:]
    # partition sorts NaN to the end, so the difference below is NaN as it must be.
    return np.asarray(top[:, 1] - top[:, 0])


def _neg_entropy(probs: Floats, activation: str) -> Floats:
    """1 for a certain row, 0 for a uniform one (softmax) or all 0.5 (sigmoid, class mean)."""

    def plogp(p: Floats) -> Floats:
        return np.asarray(p * np.log(np.maximum(p, np.finfo(np.float32).tiny)))

    if activation == "softmax":
        return np.asarray(1.0 + plogp(probs).sum(axis=1) / np.log(probs.shape[1]))
    return np.asarray(1.0 + (plogp(probs) + plogp(1 - probs)).mean(axis=1) / np.log(2.0))


def _energy(logits: Floats, temperature: float, activation: str) -> Floats:
    """Free energy, sign turned so that higher is safer (Liu et al. 2020)."""
    z = np.asarray(logits, dtype=np.float32) / np.float32(temperature)
    if activation == "softmax":
        top = z.max(axis=1)
        return np.asarray(temperature * (top + np.log(np.exp(z - top[:, None]).sum(axis=1))))
    return np.asarray(temperature * np.logaddexp(0.0, z).sum(axis=1))
