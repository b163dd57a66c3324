"""Graphs in 16 bits: casts around the layers, and weights that are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade_router.errors import BuildError

from .trunk import trunk

__all__ = ["half_from_onnx"]

_HALVES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
_BFLOAT16_OPSET = 22


def half_from_onnx(model: Any, precision: str, *, emulated: bool = False) -> Any:
    """Let a graph compute in 16 bits from its first layer with weights on; its logits stay float32.

    An operator that ONNX does not define at 16 bits stays float32, with casts around it.

    Args:
        model: ``onnx.ModelProto``; not changed.
        precision: ``fp16`` or ``bf16``.
        emulated: Give a graph that any processor runs instead: float32 throughout, every weight and
            result rounded to what 16 bits hold.

    Returns:
        Another ``onnx.ModelProto``; bfloat16 needs opset 22, so such a graph is at least that.

    Raises:
        BuildError: If a weight is too large for it, or the graph has branches, loops, or operators
            of which ONNX knows nothing.
    """
    import onnx
    from onnx import version_converter

    (version,) = (one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if precision == "bf16" and version < _BFLOAT16_OPSET:
        copy = version_converter.convert_version(model, _BFLOAT16_OPSET)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
    _Half(copy, precision, emulated).convert()
    return copy


class _Half:
    """One conversion: knows the type of every tensor so far, and the casts that were made.

    Where it emulates, a tensor counts as 16 bits wide that is float32 and rounded.
    """

    def __init__(self, model: Any, precision: str, emulated: bool) -> None:
        from onnx import TensorProto, shape_inference

        self._model = model
        self._precision = precision
        self._emulated = emulated
        self._half = int(TensorProto.DataType.Value(_HALVES[precision]))
        self._float = int(TensorProto.FLOAT)
        inferred = shape_inference.infer_shapes(model).graph
        typed = [*inferred.input, *inferred.output, *inferred.value_info]
        self._types = {value.name: value.type.tensor_type.elem_type for value in typed}
        self._types |= {tensor.name: tensor.data_type for tensor in inferred.initializer}
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._nodes: list[Any] = []

    def convert(self) -> None:
        graph = self._model.graph
        self._check()
        halves = {node.output[0] for node in trunk(graph) if self._takes_half(node)}
        for node in list(graph.node):
            made = {name: self._types.get(name) for name in node.output}
            wanted = self._half if node.output[0] in halves else self._float
            for i, name in enumerate(node.input):
                if self._types.get(name) in (self._half, self._float) and self._casts(node, i):
                    node.input[i] = self._as(name, wanted)
            self._nodes.append(node)
            if node.output[0] in halves:
                for i, name in enumerate(node.output):
                    if made[name] == self._float:
                        self._halve_output(node, i)
        self._finish()

    def _check(self) -> None:
        """Refuse what casts cannot be put around: types must be known, names must be here."""
        graph = self._model.graph
        for node in graph.node:
            if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
                message = f"{self._precision}: the graph has {node.op_type}, a branch or loop"
                raise BuildError(message, hint="use fp32, or a module without branches on values")
        for node in trunk(graph):
            if not all(self._types.get(name) for name in node.output if name):
                name = f"{node.domain}.{node.op_type}".strip(".")
                message = f"{self._precision}: ONNX knows nothing of the types of {name}"
                raise BuildError(message, hint="use fp32, or ONNX's own operators")

    def _takes_half(self, node: Any) -> bool:
        """Say whether ONNX defines an operator at 16 bits."""
        import onnx

        versions = {one.domain: one.version for one in self._model.opset_import}
        if node.op_type in ("Constant", "Cast"):
            return bool(node.op_type == "Cast")
        if node.domain not in ("", "ai.onnx"):
            return False
        schema = onnx.defs.get_schema(node.op_type, versions[node.domain], node.domain)
        name = "tensor(float16)" if self._precision == "fp16" else "tensor(bfloat16)"
        allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
        return bool(schema.inputs) and name in allowed.get(schema.inputs[0].type_str, ())

    def _casts(self, node: Any, i: int) -> bool:
        """Say whether an input follows the operator's precision; a resize's scales never do."""
        return not (node.op_type == "Resize" and i > 0)

    def _as(self, name: str, kind: int) -> str:
        """Name a tensor at another type, made where it is first asked for."""
        if self._types[name] == kind:
            return name
        if self._emulated and kind == self._float:
            return name
        other = f"{name}_{'float32' if kind == self._float else self._precision}"
        if other not in self._types:
            if name in self._weights:
                self._model.graph.initializer.append(self._halved(name, other))
            else:
                self._cast(name, other, kind)
            self._types[other] = kind
        return other

    def _cast(self, name: str, other: str, kind: int) -> None:
        """Append a cast, or where it emulates, one there and back."""
        from onnx import helper

        if self._emulated:
            there = f"{other}_rounded"
            self._nodes.append(helper.make_node("Cast", [name], [there], name=there, to=kind))
            name, kind = there, self._float
        cast = helper.make_node("Cast", [name], [other], name=f"{other}_cast", to=kind)
        self._nodes.append(cast)

    def _halve_output(self, node: Any, i: int) -> None:
        """Let a node, just appended, give 16 bits."""
        name = node.output[i]
        self._types[name] = self._half
        if self._emulated:
            node.output[i] = f"{name}_exact"
            self._cast(node.output[i], name, self._half)
        else:
            for attribute in node.attribute if node.op_type == "Cast" else ():
                attribute.i = self._half

    def _halved(self, name: str, other: str) -> Any:
        """Round a weight; a value that 16 bits cannot hold is refused."""
        from onnx import helper, numpy_helper

        values = numpy_helper.to_array(self._weights[name])
        with np.errstate(over="ignore"):  # looked at below
            rounded = values.astype(helper.tensor_dtype_to_np_dtype(self._half))
        if not np.isfinite(rounded.astype(np.float32)).all() and np.isfinite(values).all():
            largest = float(np.abs(values).max())
            message = (
                f"{self._precision}: the weights {name!r} hold {largest:.3g}, too large for it"
            )
            raise BuildError(message, hint="use bf16, whose range is that of float32, or fp32")
        if self._emulated:
            rounded = rounded.astype(np.float32)
        return numpy_helper.from_array(rounded, other)

    def _finish(self) -> None:
        """Give the outputs back their float32, drop weights that nobody reads any more."""
        graph = self._model.graph
        for output in graph.output:
            if self._types[output.name] == self._half and not self._emulated:
                inner = f"{output.name}_{self._precision}"
                for node in self._nodes:
                    for names in (node.input, node.output):
                        for i, name in enumerate(names):
                            names[i] = inner if name == output.name else name
                self._cast(inner, output.name, self._float)
        read = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        nodes = list(self._nodes)
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)
