"""Experts that do nothing: what is left is what the router itself costs.

A null expert is an ONNX graph that hands its input back as logits, built and served as every expert
is, so a row's way is known when it is sent: ``exits_at`` makes a row that exits at a given tier.
Those of a picture cascade hand back the mean of each colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade_builder import layout, repository
from cascade_builder.factories import Factory
from cascade_builder.manifest import Built, file_digest, manifest, manifest_json
from cascade_builder.runtime import OUTPUT
from cascade_builder.sources import FactorySource
from cascade_builder.spec import Expert, Input, Point, Router, Rows, Spec
from cascade_router import Gate, OperatingPoint, Policy, Tier

__all__ = ["THRESHOLD", "exits_at", "picture_spec", "spec", "traffic", "write"]

THRESHOLD = 0.6
_CLASSES = 4
_COST_MS = {1: 0.1, 64: 0.2}
"""A call of a null expert in ms by batch size: so cheap that it runs in place."""


def spec(
    n_tiers: int = 2, *, name: str = "null", router: Router | None = None, instances: int = 2
) -> Spec:
    """Describe a cascade of null experts."""
    factory = Factory.parse("benchmarks.null:write", Path(__file__).parent, "null")
    return Spec(
        name=name,
        activation="softmax",
        classes=_CLASSES,
        label_tolerance=0,
        max_batch=64,
        labels=None,
        target="embedded",
        input=Input(kind="tensor", name="X", dtype="FP32", shape=(_CLASSES,)),
        rows=Rows(factory=factory),
        experts=tuple(
            Expert(name=f"t{k}", source=FactorySource(factory=factory), instances=instances)
            for k in range(n_tiers)
        ),
        points=(Point(name="only", thresholds=(THRESHOLD,) * (n_tiers - 1)),),
        default="only",
        digest="sha256:null",
        router=router or Router(),
    )


def picture_spec(n_tiers: int = 2, *, name: str = "null_pictures", side: int = 32) -> Spec:
    """Describe a cascade of null experts that takes pictures and answers with their colour."""
    pixels = Input(kind="image", name="PIXELS", dtype="UINT8", shape=(side, side, 3))
    return replace(spec(n_tiers, name=name), classes=3, input=pixels)


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


def write(
    folder: Path, cascade: Spec, scratch: Path, cost_ms: Mapping[int, float] = _COST_MS
) -> None:
    """Lay a null cascade out as the builder lays out any other.

    Args:
        folder: The model repository.
        cascade: From ``spec`` or ``picture_spec``.
        scratch: Gets the ONNX file.
        cost_ms: What the policy says of a call by batch size; above the cost of a sender rows go up
            as those of real experts do.
    """
    onnx = (_identity if cascade.input.raw is None else _colours)(
        scratch / f"{cascade.name}.onnx", cascade
    )
    digest = file_digest(onnx)
    built = [Built(expert=e, files={"model.onnx": onnx}, digest=digest) for e in cascade.experts]
    core = layout.core_files()
    described = manifest(
        cascade,
        "embedded",
        built,
        models=layout.model_names(cascade),
        core_digest=layout.core_digest(core),
    )
    files = {
        "policy.json": _policy(cascade, digest, cost_ms).to_json().encode(),
        "manifest.json": manifest_json(described).encode(),
    }
    models = layout.layout(cascade, "embedded", built, core=core, router_files=files)
    repository.apply(folder, repository.Change(owner=cascade.name, write=models))


def _identity(path: Path, cascade: Spec) -> Path:
    from onnx import helper

    return _saved(path, cascade, [helper.make_node("Identity", [cascade.input.name], [OUTPUT])])


def _colours(path: Path, cascade: Spec) -> Path:
    """Write the mean of each colour, 0 to 16, as a graph."""
    from onnx import TensorProto, helper

    sixteenth = helper.make_tensor("s", TensorProto.FLOAT, [], [1 / 16])
    nodes = [
        helper.make_node("Cast", [cascade.input.name], ["values"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["values"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Constant", [], ["sixteenth"], value=sixteenth),
        helper.make_node("Mul", ["means", "sixteenth"], [OUTPUT]),
    ]
    return _saved(path, cascade, nodes)


def _saved(path: Path, cascade: Spec, nodes: list[Any]) -> Path:
    import onnx
    from onnx import TensorProto, helper

    form = cascade.input
    kind = {"FP32": TensorProto.FLOAT, "UINT8": TensorProto.UINT8}[form.dtype]
    graph = helper.make_graph(
        nodes,
        "null",
        [helper.make_tensor_value_info(form.name, kind, ["batch", *form.shape])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", cascade.classes])],
    )
    opset = [helper.make_opsetid("", 17)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def _policy(cascade: Spec, digest: str, cost_ms: Mapping[int, float]) -> Policy:
    gates = (*(Gate(threshold=t) for t in cascade.points[0].thresholds), Gate())
    return Policy(
        cascade=cascade.name,
        activation=cascade.activation,
        n_classes=cascade.classes,
        tiers=tuple(
            Tier(name=e.name, model=cascade.model(e.name), digest=digest, cost_ms=cost_ms)
            for e in cascade.experts
        ),
        points=(OperatingPoint(name="only", gates=gates),),
        default="only",
    )
