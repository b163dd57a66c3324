"""Probabilities and scores of one tier's logits. A score is higher where the answer is safer.

Shapes: N rows, C classes. Everything is computed row by row in float32 (the dtype served), so a
row's score does not depend on its batch mates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import PolicyError
from .strict import Table

__all__ = ["ACTIVATIONS", "SCORES", "Floats", "Score", "probabilities"]

Floats = npt.NDArray[np.floating[Any]]

ACTIVATIONS = ["softmax", "sigmoid"]
"""How logits become probabilities: classes that exclude each other, or independent ones."""

SCORES = ["max_prob", "margin", "neg_entropy", "energy", "logit_gap"]
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
class Score:
    """How one tier's safety is read from its logits.

    Attributes:
        kind: One of ``SCORES``.
        temperature: Divides the logits first.
    """

    kind: str = "max_prob"
    temperature: float = 1.0

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
        match self.kind:
            case "max_prob":
                score = probs.max(axis=1)
            case "margin":
                score = _gap(probs)
            case "neg_entropy":
                score = _neg_entropy(probs, activation)
            case "energy":
                score = _energy(logits, self.temperature, activation)
            case "logit_gap":
                score = _gap(np.asarray(logits, dtype=np.float32))
            case _:
                message = f"score kind {self.kind!r} is unknown"
                raise ValueError(message)
        return np.asarray(score, dtype=np.float64)

    @classmethod
    def from_table(cls, table: Table) -> Score:
        """Read from a table of ``policy.json``."""
        kind = table.choice("kind", SCORES, "max_prob")
        temperature = table.number("temperature", 1.0, low=1e-3, high=1e3)
        table.done()
        return cls(kind=kind, temperature=temperature)

    def __post_init__(self) -> None:
        """Refuse a score that cannot be computed."""
        if self.kind not in SCORES or not self.temperature > 0:
            message = f"policy: score {self.kind!r} at temperature {self.temperature} is unusable"
            raise PolicyError(message, hint=f"expected one of {', '.join(SCORES)}, above 0")


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
