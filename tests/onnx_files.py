"""ONNX files as others write them: good ones, and each kind of bad one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["INPUTS", "linear", "save", "two_layers"]

INPUTS = 8
"""Numbers in a row of ``linear``."""

_RNG_SEED = 3


def linear(
    *,
    classes: int = 3,
    batch: str | int | None = "n",
    shape: Sequence[int] = (INPUTS,),
    dtype: int = TensorProto.FLOAT,
    out_dtype: int = TensorProto.FLOAT,
    names: tuple[str, str] = ("x", "y"),
    inner: Sequence[Any] = (),
    weights: Any = None,
    opset: int = 17,
    width: int | None = None,
) -> onnx.ModelProto:
    """Make a graph of one matrix: rows are cast, flattened, multiplied, and cast again.

    Args:
        classes: C.
        batch: Batch axis of the input; None: it says nothing.
        shape: Of a row.
        dtype: Of the input.
        out_dtype: Of the output.
        names: Of input and output.
        inner: Nodes between the flattened rows ``flat`` and ``ready``, which they make.
        weights: (inputs, C); None: random ones, scaled by nothing.
        opset: Of the operators.
        width: Numbers that ``ready`` has per row; None: those of a row.
    """
    width = width or int(np.prod(shape))
    if weights is None:
        weights = np.random.default_rng(_RNG_SEED).standard_normal((width, classes))
    ready = "ready" if inner else "flat"
    nodes = [
        helper.make_node("Cast", [names[0]], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        *inner,
        helper.make_node("MatMul", [ready, "w"], ["logits"]),
        helper.make_node("Cast", ["logits"], [names[1]], to=out_dtype),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info(names[0], dtype, [batch, *shape])],
        [helper.make_tensor_value_info(names[1], out_dtype, [batch, classes])],
        [numpy_helper.from_array(np.asarray(weights, dtype=np.float32), "w")],
    )
    domains = {"": opset} | {node.domain: 1 for node in inner if node.domain}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def two_layers(hidden: int = 4096) -> onnx.ModelProto:
    """Make a graph that costs clearly more than ``linear``."""
    first = np.random.default_rng(_RNG_SEED).standard_normal((INPUTS, hidden)).astype(np.float32)
    inner = [
        helper.make_node("Constant", [], ["first"], value=numpy_helper.from_array(first)),
        helper.make_node("MatMul", ["flat", "first"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["ready"]),
    ]
    return linear(inner=inner, width=hidden)


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a graph."""
    path.write_bytes(model.SerializeToString())
    return path
