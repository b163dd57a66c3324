"""ONNX graphs at another precision, which is written into the network: casts, or Q/DQ pairs.

Nothing is left to flags of a builder, so what is verified is what is served, and TensorRT 11 and
TensorRT-RTX, which take no such flags, get the same. In every precision what comes before the first
layer with weights stays float32: a picture's resize and a frame's mean and deviation decide about
everything after them, and cost little.

Shapes: N rows.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError

__all__ = ["Ranges", "half_from_onnx", "quantised_from_onnx", "trunk"]

_MATRIX = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_AMONG = ["Add", "Mul", "MaxPool", "Clip", "Relu"]
"""What stands between layers with weights and keeps 8-bit values 8-bit."""

_HALVES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}
_BFLOAT16_OPSET = 22
_FP8_OPSET = 19


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """How 8-bit values are made of real rows.

    Attributes:
        kind: ``cpu``: unsigned activations with a zero point, which is what VNNI multiplies;
            ``gpu``: signed and symmetric, and only inputs of layers with weights, which is what
            TensorRT takes; ``fp8``: the same in FP8 E4M3.
        keep_ends: The first and the last layer with weights stay float32.
        percentile: Ranges leave out the outermost 0.001 % of the values; else they span them all.
    """

    kind: str
    keep_ends: bool = False
    percentile: bool = False

    def __str__(self) -> str:
        span = "99.999 % of the values" if self.percentile else "all values"
        ends = ", first and last layer float32" if self.keep_ends else ""
        return f"ranges over {span}{ends}"


def trunk(graph: Any) -> list[Any]:
    """List the nodes that depend on a layer with weights, such layers included, in their order."""
    weights = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    reached: set[str] = set()
    nodes = []
    for node in graph.node:
        layer = node.op_type in _MATRIX and not weights.isdisjoint(node.input)
        resize = layer and node.name.endswith("_product")
        if (layer and not resize) or not reached.isdisjoint(node.input):
            nodes.append(node)
            reached.update(node.output)
    return nodes


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
        BuildError: If a weight is too large for it, or the graph has branches or loops.
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

    def _takes_half(self, node: Any) -> bool:
        """Say whether ONNX defines an operator at 16 bits."""
        import onnx

        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            message = f"{self._precision}: the graph has {node.op_type}, a branch or loop"
            raise BuildError(message, hint="use fp32, or a module without branches on values")
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


def quantised_from_onnx(model: Any, rows: npt.NDArray[Any], ranges: Ranges) -> Any:
    """Write Q/DQ pairs around the layers with weights, their ranges measured on real rows.

    Args:
        model: ``onnx.ModelProto``; not changed.
        rows: (N, ...) canonical real rows, N >= 1.
        ranges: How.

    Returns:
        Another ``onnx.ModelProto``; equal inputs give an equal one.

    Raises:
        BuildError: If no layer can be quantised.
    """
    from onnxruntime.quantization import QuantFormat, quantize_static

    with _quiet(), tempfile.TemporaryDirectory(prefix="cascade-int8-") as scratch:
        # Files, not models: given a model, both steps move its weights out of it.
        plain, result = Path(scratch) / "plain.onnx", Path(scratch) / "quantised.onnx"
        nodes = _chosen(_prepared(model, plain), ranges)
        quantize_static(
            plain,
            result,
            _Reader(model.graph.input[0].name, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted({node.op_type for node in nodes}),
            nodes_to_quantize=[node.name for node in nodes],
            per_channel=True,
            **_options(ranges),
        )
        return _tidied(result) if ranges.kind != "fp8" else _fp8_from_int8(_tidied(result))


class _Reader:
    """Hands real rows to the quantiser, one at a time: it wants batches of one size."""

    def __init__(self, name: str, rows: npt.NDArray[Any]) -> None:
        self._batches = iter([{name: rows[i : i + 1]} for i in range(len(rows))])

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        return next(self._batches, None)


def _prepared(model: Any, path: Path) -> Any:
    """Write a graph as the quantiser wants it, folded and with a name for every node; return it."""
    import onnx
    from onnxruntime.quantization.shape_inference import quant_pre_process

    onnx.save(model, path)
    quant_pre_process(str(path), str(path), skip_symbolic_shape=True)
    plain = onnx.load(path)
    for i, node in enumerate(plain.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    onnx.save(plain, path)
    return plain.graph


def _chosen(graph: Any, ranges: Ranges) -> list[Any]:
    """List the nodes to quantise."""
    nodes = trunk(graph)
    layers = [node for node in nodes if node.op_type in _MATRIX]
    if ranges.kind == "cpu":
        chosen = [node for node in nodes if node.op_type in _MATRIX or node.op_type in _AMONG]
    else:
        chosen = layers
    if ranges.keep_ends:
        ends = {layers[0].name, layers[-1].name} if layers else set()
        chosen = [node for node in chosen if node.name not in ends]
    if not any(node.op_type in _MATRIX for node in chosen):
        message = f"no layer with weights is left to quantise of {len(layers)}"
        raise BuildError(message, hint="use fp32: there is nothing that int8 would make quicker")
    return chosen


def _options(ranges: Ranges) -> dict[str, Any]:
    """Say the quantiser's options."""
    from onnxruntime.quantization import CalibrationMethod, QuantType

    method = CalibrationMethod.Percentile if ranges.percentile else CalibrationMethod.MinMax
    if ranges.kind == "cpu":
        return {
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "calibrate_method": method,
        }
    return {
        "activation_type": QuantType.QInt8,
        "weight_type": QuantType.QInt8,
        "calibrate_method": method,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "QDQKeepRemovableActivations": True,
            "OpTypesToExcludeOutputQuantization": sorted(_MATRIX),
        },
    }


def _fp8_from_int8(model: Any) -> Any:
    """Give symmetric Q/DQ pairs another type: the largest value becomes 448 instead of 127.

    NVIDIA's ModelOpt does the same; the quantiser's own FP8 ranges come from a distribution that
    activations behind a ReLU do not have, and some of them are infinite.
    """
    from onnx import TensorProto, helper, numpy_helper, version_converter

    (version,) = (one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    if version < _FP8_OPSET:
        model = version_converter.convert_version(model, _FP8_OPSET)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    done: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        _, scale, zero = node.input
        if scale not in done:
            wide = numpy_helper.to_array(tensors[scale]) * np.float32(127 / 448)
            tensors[scale].CopyFrom(numpy_helper.from_array(wide, scale))
        if zero not in done:
            dims = list(tensors[zero].dims)
            kind = TensorProto.FLOAT8E4M3FN
            zeros = helper.make_tensor(zero, kind, dims, bytes(int(np.prod(dims))), raw=True)
            tensors[zero].CopyFrom(zeros)
        done.update((scale, zero))
    return model


def _tidied(path: Path) -> Any:
    """Read the result without what names this machine or these tools."""
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:], model.graph.value_info[:]
    for part in [model, model.graph, *model.graph.node, *model.graph.initializer]:
        part.doc_string = ""
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which speaks through the root logger and prints; errors are raised."""
    import io

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
