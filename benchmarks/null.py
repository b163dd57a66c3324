"""Experts that do nothing: what is left is what the router itself costs.

A null expert hands its input back as logits, so a row's way is known when it is sent: ``exits_at``
makes a row that exits at a given tier.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cascade_router
from cascade_builder import triton_config
from cascade_builder.factories import Factory
from cascade_builder.layout import core_files
from cascade_builder.spec import Expert, Input, Point, Rows, Spec
from cascade_router import Gate, OperatingPoint, Policy, Tier

__all__ = ["N_TIERS", "exits_at", "spec", "traffic", "write"]

N_TIERS = 2
_THRESHOLD = 0.6
_CLASSES = 4
_COST_MS = {1: 0.3, 64: 0.6}
"""A call of a null expert as measured, in ms by batch size: so cheap that it runs in place."""

_EXPERT = '''"""Hands its input back as logits."""

from .cascade_router.triton_io import respond_stacked


class TritonPythonModel:
    def execute(self, requests):
        return respond_stacked(requests, "X", lambda rows: {"LOGITS": rows})
'''


def spec(n_tiers: int = N_TIERS) -> Spec:
    """Describe a cascade of null experts."""
    factory = Factory.parse("benchmarks.null:write", Path(__file__).parent, "null")
    return Spec(
        name="null",
        activation="softmax",
        classes=_CLASSES,
        label_tolerance=0,
        max_batch=64,
        labels=None,
        target="embedded",
        input=Input(kind="tensor", name="X", dtype="FP32", shape=(_CLASSES,)),
        rows=Rows(factory=factory),
        experts=tuple(Expert(name=f"t{k}", factory=factory) for k in range(n_tiers)),
        points=(Point(name="only", thresholds=(_THRESHOLD,) * (n_tiers - 1)),),
        default="only",
        digest="sha256:null",
    )


def exits_at(tier: int) -> NDArray[np.float32]:
    """Make a row that exits at tier 0, or (any other tier) goes to the last."""
    logits = np.zeros(_CLASSES, dtype=np.float32)
    logits[0] = 9.0 if tier == 0 else 0.5
    return logits


def traffic(escalating: float, n: int = 200, seed: int = 0) -> list[NDArray[np.float32]]:
    """Make n rows of which a share escalates to the last tier."""
    rng = np.random.default_rng(seed)
    count = round(escalating * n)
    return [exits_at(int(i < count)) for i in rng.permutation(n)]


def write(folder: Path, n_tiers: int = N_TIERS) -> None:
    """Lay out a repository: the null cascade, and the per-request router beside it."""
    cascade = spec(n_tiers)
    for expert in cascade.experts:
        config = triton_config.expert_config(cascade, expert, "embedded")
        del config.model_warmup[:]
        _model(folder, config, _EXPERT)
    shim = "from .cascade_router.backend import TritonPythonModel\n"
    _model(folder, triton_config.router_config(cascade), shim)
    _policy(folder / "null_router" / "1", cascade)
    _peer(folder, cascade)


def _policy(version: Path, cascade: Spec) -> None:
    gates = (*(Gate(threshold=t) for t in cascade.points[0].thresholds), Gate())
    policy = Policy(
        cascade=cascade.name,
        activation=cascade.activation,
        n_classes=cascade.classes,
        tiers=tuple(
            Tier(name=e.name, model=cascade.model(e.name), digest="sha256:null", cost_ms=_COST_MS)
            for e in cascade.experts
        ),
        points=(OperatingPoint(name="only", gates=gates),),
        default="only",
    )
    experts = [{"name": e.name, "digest": "sha256:null"} for e in cascade.experts]
    (version / "policy.json").write_text(policy.to_json())
    manifest = {"cascade": cascade.name, "experts": experts}
    (version / "manifest.json").write_text(json.dumps(manifest))


def _peer(folder: Path, cascade: Spec) -> None:
    """Add the router that tutorials show, configured as they show it."""
    config = triton_config.router_config(cascade)
    config.name = "null_per_request"
    config.ClearField("dynamic_batching")
    config.instance_group[0].count = 1
    thresholds = ",".join(str(t) for t in cascade.points[0].thresholds)
    tiers = ",".join(cascade.model(e.name) for e in cascade.experts)
    config.parameters["tiers"].string_value = tiers
    config.parameters["thresholds"].string_value = thresholds
    source = Path(__file__).parent / "peers" / "per_request_bls.py"
    _model(folder, config, source.read_text())


def _model(folder: Path, config: triton_config.ModelConfig, source: str) -> None:
    version = folder / config.name / "1"
    shutil.rmtree(folder / config.name, ignore_errors=True)
    (version / cascade_router.__name__).mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(triton_config.text(config))
    (version / "model.py").write_text(source)
    for name, data in core_files().items():
        (version / cascade_router.__name__ / name).write_bytes(data)
