"""A router of three experts in a folder, to be loaded with Triton's API faked."""

import dataclasses
import json

from cascade_router import Gate, OperatingPoint, Policy, Tier
from cascade_router.backend import TritonPythonModel

__all__ = ["NAMES", "final", "policy", "start", "with_costs"]

NAMES = ["small", "middle", "large"]
CONFIG = {
    "max_batch_size": 8,
    "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": ["3"]}],
    "parameters": {"calls_per_tier": {"string_value": "1"}},
}


def policy():
    """Two points over three tiers."""
    return Policy(
        cascade="c",
        activation="softmax",
        n_classes=3,
        tiers=tuple(Tier(name=n, model=f"c_{n}", digest=f"sha256:{n}") for n in NAMES),
        points=(
            OperatingPoint(name="fast", gates=(Gate(threshold=0.5), Gate(threshold=0.5), Gate())),
            OperatingPoint(name="exact", gates=(Gate(threshold=0.8), Gate(threshold=0.9), Gate())),
        ),
        default="fast",
    )


def start(folder, **parameters):
    """Load a router, with parameters of its config."""
    model = TritonPythonModel()
    given = {name: {"string_value": value} for name, value in parameters.items()}
    config = CONFIG | {"parameters": CONFIG["parameters"] | given}
    args = {"model_config": json.dumps(config), "model_version": "1"}
    model.initialize(args | {"model_repository": str(folder)})
    return model


def final(request, reply):
    """The one answer of a request, whichever way it came."""
    if reply is not None:
        assert request.sender is None
        return reply
    return request.sender.replies.get(timeout=10)


def with_costs(folder, costs):
    """Have the policy say what each tier costs."""
    tiers = tuple(dataclasses.replace(tier, cost_ms=costs[tier.name]) for tier in policy().tiers)
    (folder / "1/policy.json").write_text(dataclasses.replace(policy(), tiers=tiers).to_json())
