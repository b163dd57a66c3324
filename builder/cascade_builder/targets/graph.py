"""ONNX graphs in a form that every TensorRT takes, computing the same.

TensorRT and TensorRT-RTX 1.7 know no antialiased ``Resize`` and move no 8-bit pixels about. On ONNX
Runtime both are quicker as they were (a product of matrices takes twice as long as its ``Resize``),
so only the TensorRT targets ask for this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_builder.precision.trunk import RESIZED
from cascade_builder.runtime import inner_values

__all__ = ["cast_first", "constants", "products_for_resizes"]

_MOVES = {"Slice", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Concat"}
"""Operators that only move values about, and so may come before or after a cast."""


def constants(graph: Any) -> dict[str, npt.NDArray[Any]]:
    """Read the constant tensors of a graph by name, without copying those that are large."""
    from onnx import numpy_helper

    out = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    out[node.output[0]] = numpy_helper.to_array(attribute.t)
    return out


def cast_first(model: Any) -> None:
    """Turn 8-bit pixels into float32 as the first step, where the graph would do so a little later.

    A cast commutes with what only moves values, so nothing is computed otherwise. A graph that does
    more than that with 8-bit values stays as it is, for TensorRT to say what it thinks of it.

    Args:
        model: ``onnx.ModelProto``, changed in place.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    source = graph.input[0]
    if source.type.tensor_type.elem_type not in (TensorProto.UINT8, TensorProto.INT8):
        return
    narrow, casts = {source.name}, []
    for node in graph.node:
        if narrow.isdisjoint(node.input):
            continue
        if node.op_type == "Cast":
            casts.append(node)
        elif node.op_type in _MOVES:
            narrow.update(node.output)
        elif node.op_type != "Shape":
            return
    if any(helper.get_attribute_value(node.attribute[0]) != TensorProto.FLOAT for node in casts):
        return
    wide = f"{source.name}_float32"
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == source.name and node.op_type != "Shape":
                node.input[i] = wide
        if node in casts:
            node.op_type = "Identity"
            del node.attribute[:]
    first = helper.make_node(
        "Cast", [source.name], [wide], name=f"{wide}_cast", to=TensorProto.FLOAT
    )
    graph.node.insert(0, first)
    del graph.value_info[:]  # what it says of the moved values is no longer so


def products_for_resizes(model: Any, rows: npt.NDArray[Any]) -> int:
    """Write each antialiased ``Resize`` as products with two constant matrices.

    A separable resize of (H, W) to (H', W') is A x B with A (H', H) and B (W, W'). The matrices are
    what ONNX Runtime's own ``Resize`` makes of the unit matrix, one axis at a time, so every way of
    placing samples, kernel and edge comes out as it was.

    Args:
        model: ``onnx.ModelProto``, changed in place.
        rows: (n, ...) canonical rows, n >= 1, to see the sizes by.

    Returns:
        How many were written anew. One that changes its size with the number of rows, or crops by
        a region of interest, stays.
    """
    from onnx import numpy_helper

    graph = model.graph
    nodes = [node for node in graph.node if _is_antialiased(node)]
    if not nodes:
        return 0
    names = [name for node in nodes for name in (node.input[0], node.output[0])]
    one, two = (_values(model, names, np.resize(rows, (n, *rows.shape[1:]))) for n in (1, 2))
    known, done = constants(graph), 0
    for node in nodes:
        before, after = one[node.input[0]].shape, one[node.output[0]].shape
        fixed = two[node.output[0]].shape[1:] == after[1:]
        if not fixed or len(before) != 4 or before[:2] != after[:2]:
            continue
        left, right = (_matrix(model, node, known, before, after, axis) for axis in (2, 3))
        tall, wide = (f"{node.output[0]}_{side}" for side in ("rows", "columns"))
        # From the right: (N, C, H, W) x (W, W'), then (H', H) x (N, C, H, W').
        graph.initializer.extend(
            [numpy_helper.from_array(left, tall), numpy_helper.from_array(right, wide)]
        )
        _replace(graph, node, tall, wide)
        done += 1
    return done


def _values(model: Any, names: list[str], rows: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Take tensors from inside a graph, the rows themselves included."""
    return {model.graph.input[0].name: rows, **inner_values(model, names, rows)}


def _is_antialiased(node: Any) -> bool:
    from onnx import helper

    if node.op_type != "Resize":
        return False
    values = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    plain = not values.get("axes") and values.get("keep_aspect_ratio_policy") in (None, b"stretch")
    cropped = values.get("coordinate_transformation_mode") == b"tf_crop_and_resize"
    return bool(values.get("antialias")) and plain and not cropped


def _matrix(
    model: Any,
    node: Any,
    known: dict[str, npt.NDArray[Any]],
    before: Sequence[int],
    after: Sequence[int],
    axis: int,
) -> npt.NDArray[np.float32]:
    """Resize a unit matrix along one axis: (H', H) along 2, (W, W') along 3."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    side = before[axis]
    unit = np.eye(side, dtype=np.float32).reshape(1, 1, side, side)
    by_scale = len(node.input) > 2 and node.input[2] in known
    if by_scale:
        how = np.ones(4, dtype=np.float32)
        how[axis] = known[node.input[2]][axis]
    else:
        how = np.array([1, 1, side, side], dtype=np.int64)
        how[axis] = after[axis]
    inner = helper.make_node(
        "Resize", ["unit", "", "how"] if by_scale else ["unit", "", "", "how"], ["matrix"]
    )
    inner.attribute.extend(node.attribute)
    graph = helper.make_graph(
        [inner],
        "resize",
        [helper.make_tensor_value_info("unit", TensorProto.FLOAT, [1, 1, side, side])],
        [onnx.ValueInfoProto(name="matrix")],
        [numpy_helper.from_array(how, "how")],
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return np.ascontiguousarray(inner_values(alone, ["matrix"], unit)["matrix"][0, 0])


def _replace(graph: Any, node: Any, tall: str, wide: str) -> None:
    """Put two products in a node's place."""
    from onnx import helper

    half = f"{wide}{RESIZED}"
    products = [
        helper.make_node("MatMul", [node.input[0], wide], [half], name=half),
        helper.make_node("MatMul", [tall, half], [node.output[0]], name=f"{tall}{RESIZED}"),
    ]
    place = list(graph.node).index(node)
    graph.node.remove(node)
    for i, product in enumerate(products):
        graph.node.insert(place + i, product)
