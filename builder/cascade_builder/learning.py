"""What is learned from the fit rows: a temperature per tier, and the weights of a learned score.

Shapes: n fit rows, C classes, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.scores import Floats, Learned, probabilities

__all__ = ["LOG_T_BOUNDS", "learned_from", "temperature_from"]

Ints = npt.NDArray[np.integer[Any]]

LOG_T_BOUNDS = (math.log(0.05), math.log(20.0))
"""Temperatures searched."""

_TINY = float(np.finfo(np.float32).tiny)


def temperature_from(
    logits: Floats, truth: Ints, right: npt.NDArray[np.bool_], activation: str
) -> float:
    """Find the temperature of least negative log likelihood (Guo et al. 2017).

    Softmax: of the true class. Sigmoid: of the event that the answer is right, with the largest
    probability as its forecast; bins of an ordered task share their mass with their neighbours,
    so the likelihood of single bins says little there, and ``right`` knows the label tolerance.

    Args:
        logits: (n, C) float.
        truth: (n,) int, true class, or the largest expert's answer where there are no labels.
        right: (n,) bool, the row's answer counts as ``truth``.
        activation: One of ``scores.ACTIVATIONS``.

    Returns:
        Temperature in [0.05, 20], to four digits; 1.0 without rows.
    """
    from scipy.optimize import minimize_scalar

    if not len(truth):
        return 1.0
    z = np.asarray(logits, dtype=np.float32)
    peak = z.max(axis=1)
    at_truth = z[np.arange(len(z)), truth]

    def nll(log_t: float) -> float:
        t = math.exp(log_t)
        if activation == "softmax":
            total = np.log(np.exp((z - peak[:, None]) / np.float32(t)).sum(axis=1))
            return float(np.mean(total + (peak - at_truth) / t))
        p = probabilities(peak[:, None], activation, t)[:, 0]
        return -float(np.log(np.maximum(np.where(right, p, 1 - p), _TINY)).mean())

    found = minimize_scalar(nll, bounds=LOG_T_BOUNDS, method="bounded", options={"xatol": 1e-4})
    return float(f"{math.exp(found.x):.4g}")


def learned_from(
    features: Sequence[Floats], safe: npt.NDArray[np.bool_], l2: float = 3.0
) -> Learned:
    """Fit a logistic regression that predicts where the largest expert would do no better.

    Args:
        features: F times (n,) float, in the order of ``scores.FEATURES``.
        safe: (n,) bool, the target: exiting here loses nothing.
        l2: Weight of the penalty on the standardised weights, in rows.

    Returns:
        Weights of least penalised log loss. Rows with a feature that is not finite are left out.
    """
    from scipy.optimize import minimize

    x = np.stack([np.asarray(f, dtype=np.float64) for f in features], axis=1)
    known = np.isfinite(x).all(axis=1)
    x, target = x[known], safe[known].astype(np.float64)
    means = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
    scales = np.maximum(x.std(axis=0) if len(x) else np.ones(x.shape[1]), 1e-6)
    x = np.c_[(x - means) / scales, np.ones(len(x))]
    penalty = np.append(np.full(x.shape[1] - 1, l2), 1e-3)

    def loss(w: Floats) -> tuple[float, Floats]:
        margin = x @ w
        value = np.logaddexp(0, margin).sum() - margin @ target + 0.5 * (penalty * w * w).sum()
        slope = x.T @ (0.5 * (1 + np.tanh(0.5 * margin)) - target) + penalty * w
        return float(value), slope

    w = minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    # Eight digits: the last bits differ between machines, and nothing hangs on them.
    digits = [float(f"{value:.8g}") for value in w]
    return Learned(
        weights=tuple(digits[:-1]),
        means=tuple(float(f"{m:.8g}") for m in means),
        scales=tuple(float(f"{s:.8g}") for s in scales),
        bias=digits[-1],
    )
