"""Graphs in 8 bits: Q/DQ pairs, whose ranges are measured on real rows.

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

from .trunk import MATRIX, is_layer, trunk

__all__ = ["Ranges", "quantised_from_onnx"]

_AMONG = ["Add", "Mul", "MaxPool", "Clip", "Relu"]
"""What stands between layers with weights and keeps 8-bit values 8-bit."""

_FP8_OPSET = 19

_WARNINGS, _ERRORS = 2, 3
"""Severities of ONNX Runtime; warnings are its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """How 8-bit values are made of real rows.

    Attributes:
        kind: ``cpu``: unsigned activations with a zero point, which is what VNNI multiplies;
            ``gpu``: signed and symmetric, and only what layers with weights read, which is what
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
    layers = [node for node in nodes if is_layer(node)]
    if ranges.kind == "cpu":
        chosen = [node for node in nodes if is_layer(node) or node.op_type in _AMONG]
    else:
        chosen = layers
    if ranges.keep_ends:
        ends = {layers[0].name, layers[-1].name} if layers else set()
        chosen = [node for node in chosen if node.name not in ends]
    if not any(map(is_layer, chosen)):
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
            "OpTypesToExcludeOutputQuantization": sorted(MATRIX),
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
    model.producer_name = model.producer_version = ""
    for part in [model, model.graph, *model.graph.node, *model.graph.initializer]:
        part.doc_string = ""
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser, which speaks through the root logger and prints; errors are raised."""
    import io

    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    onnxruntime.set_default_logger_severity(_ERRORS)  # of the quantiser's own sessions
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(_WARNINGS)
