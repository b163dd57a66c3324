"""The cascade restated the dull way: one row, plain Python, no shared code with the router."""

from __future__ import annotations

import math
from collections.abc import Sequence


def softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    top = max(logits)
    powers = [math.exp((z - top) / temperature) for z in logits]
    return [p / sum(powers) for p in powers]


def sigmoid(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    return [1 / (1 + math.exp(-z / temperature)) for z in logits]


def score(kind: str, logits: Sequence[float], activation: str, t: float) -> float:
    """Score one row in double precision, by the textbook formula of each untrained kind."""
    z = [float(v) for v in logits]
    p = {"softmax": softmax, "sigmoid": sigmoid}[activation](z, t)
    tops, heights = sorted(p)[::-1], sorted(z)[::-1]

    def plogp(q: float) -> float:
        return q * math.log(q) if q > 1e-37 else 0.0

    if kind == "max_prob":
        return tops[0]
    if kind == "margin":
        return tops[0] - tops[1]
    if kind == "logit_gap":
        return heights[0] - heights[1]
    if kind == "neg_entropy":
        if activation == "softmax":
            return 1 + sum(map(plogp, p)) / math.log(len(p))
        return 1 + sum(plogp(q) + plogp(1 - q) for q in p) / len(p) / math.log(2)
    if activation == "softmax":
        return t * math.log(sum(math.exp((v - heights[0]) / t) for v in z)) + heights[0]
    return t * sum(math.log1p(math.exp(-abs(v / t))) + max(v / t, 0) for v in z)


def gate_score(how: dict, logits: Sequence[float], activation: str) -> float:
    """Score one row as a tier's ``score`` in ``policy.json`` says, learned ones included."""
    t = how.get("temperature", 1.0)
    if how.get("kind", "max_prob") != "learned":
        return score(how.get("kind", "max_prob"), logits, activation, t)
    total = how["learned"]["bias"]
    for kind, values in how["learned"].items():
        if kind != "bias":
            weight, mean, scale = values
            total += weight * (score(kind, logits, activation, t) - mean) / scale
    return total


def answer(
    policy: dict,
    logits: Sequence[Sequence[float]],
    point: str | None = None,
    min_tier: int = 0,
    max_tier: int | None = None,
) -> tuple[int, int, float]:
    """Answer one row.

    Args:
        policy: ``policy.json`` as parsed JSON.
        logits: One row of logits per tier.
        point: Name of the operating point; None: the default.
        min_tier: Lowest tier that may answer.
        max_tier: Highest tier that may answer; None: the last.

    Returns:
        (tier, label, confidence).
    """
    found = answer_without(policy, logits, (), "fail", point, min_tier, max_tier)
    assert found is not None
    return found[:3]


def answer_without(
    policy: dict,
    logits: Sequence[Sequence[float]],
    failed: Sequence[int],
    how: str,
    point: str | None = None,
    min_tier: int = 0,
    max_tier: int | None = None,
) -> tuple[int, int, float, bool] | None:
    """Answer one row while some tiers fail.

    Args:
        policy: ``policy.json`` as parsed JSON.
        logits: One row of logits per tier.
        failed: The tiers that fail.
        how: What ``on_tier_failure`` says.
        point: Name of the operating point; None: the default.
        min_tier: Lowest tier that may answer.
        max_tier: Highest tier that may answer; None: the last.

    Returns:
        (tier, label, confidence, whether a tier failed on the way); None: the row is refused.
    """
    last = len(policy["tiers"]) - 1
    max_tier = last if max_tier is None else max_tier
    name = policy["default"] if point is None else point
    gates = next(p["gates"] for p in policy["points"] if p["name"] == name)
    on = [k for k in range(last + 1) if not gates[k].get("off", False)]
    usable = [k for k in on if min_tier <= k <= max_tier] or [max_tier]
    activate = {"softmax": softmax, "sigmoid": sigmoid}[policy["activation"]]
    k, ran, best, degraded = usable[0], [], None, False
    while True:
        higher = [m for m in usable if m > k]
        if k in failed:
            degraded = True
            if how == "fail":
                return None
            if not higher or (how == "best_so_far" and best is not None):
                return None if best is None else (*best, degraded)
            k = higher[0]
            continue
        scoring = policy["tiers"][k]["score"]
        row = [float(z) for z in logits[k]]
        ran.append(activate(row, scoring.get("temperature", 1.0)))
        value = gate_score(scoring, row, policy["activation"])
        if value < gates[k].get("skip_below", -math.inf):
            target = min(gates[k]["skip_to"], max_tier)
            higher = [m for m in usable if m >= max(target, k + 1)]
        mean = policy.get("answer", "last") == "mean"
        probs = [sum(p) / len(ran) for p in zip(*ran, strict=True)] if mean else ran[-1]
        best = (k, probs.index(max(probs)), max(probs))
        if not higher or value >= gates[k].get("threshold", -math.inf):
            return (*best, degraded)
        k = higher[0]
