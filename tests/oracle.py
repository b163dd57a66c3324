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


def answer(
    policy: dict,
    logits: Sequence[Sequence[float]],
    point: str | None = None,
    min_tier: int = 0,
    max_tier: int | None = None,
) -> tuple[int, int, float]:
    """Answer one row.

    Args:
        policy: ``policy.json`` as parsed JSON; max_prob scores and answer "last" only.
        logits: One row of logits per tier.
        point: Name of the operating point; None: the default.
        min_tier: Lowest tier that may answer.
        max_tier: Highest tier that may answer; None: the last.

    Returns:
        (tier, label, confidence).
    """
    last = len(policy["tiers"]) - 1
    max_tier = last if max_tier is None else max_tier
    name = policy["default"] if point is None else point
    gates = next(p["gates"] for p in policy["points"] if p["name"] == name)
    on = [k for k in range(last + 1) if not gates[k].get("off", False)]
    usable = [k for k in on if min_tier <= k <= max_tier] or [max_tier]
    activate = {"softmax": softmax, "sigmoid": sigmoid}[policy["activation"]]
    k = usable[0]
    while True:
        temperature = policy["tiers"][k]["score"].get("temperature", 1.0)
        probs = activate([float(z) for z in logits[k]], temperature)
        score = max(probs)
        higher = [m for m in usable if m > k]
        if not higher or score >= gates[k].get("threshold", -math.inf):
            return k, probs.index(score), score
        if score < gates[k].get("skip_below", -math.inf):
            target = min(gates[k]["skip_to"], max_tier)
            higher = [m for m in usable if m >= max(target, k + 1)]
            if not higher:
                return k, probs.index(score), score
        k = higher[0]
