"""The network that an engine is built of: the ONNX graph as TensorRT takes it, at its precision.

Every step is compared with the graph before it on ONNX Runtime, so that an engine which answers
wrongly on a GPU is the builder's doing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade_builder.comparison import compare, first_divergence, require
from cascade_builder.precision import Ranges, half_from_onnx, quantised_from_onnx
from cascade_builder.runtime import OUTPUT, inner_values
from cascade_router.errors import BuildError

from .graph import cast_first, products_for_resizes
from .job import Array, Job

__all__ = ["network_from_onnx"]

_WHOLE = ("fp32", "tf32")
_BATCH = 8


def network_from_onnx(job: Job) -> tuple[Any, dict[str, Any]]:
    """Make the network.

    Returns:
        ``onnx.ModelProto``, and the figures of its steps.

    Raises:
        BuildError: If a step changes the answers.
    """
    import onnx

    given = onnx.load(job.onnx)
    plain = onnx.ModelProto()
    plain.CopyFrom(given)
    cast_first(plain)
    products_for_resizes(plain, job.sample)
    expected = _answers(given, job.sample)
    found = _answers(plain, job.sample)
    rewritten = compare(expected, found, "fp32", activation=job.spec.activation)
    require(
        rewritten,
        where=job.where,
        step="ONNX without antialiased resizes",
        hint="resize in the module by constant matrices, as torch.nn.functional.linear",
        culprit=lambda: first_divergence(given, plain, job.sample, "fp32"),
    )
    figures = {"onnx_to_network": rewritten.as_json()}
    precision = job.expert.precision
    if precision in _WHOLE:
        return plain, figures
    job.tell(f"{precision} from ONNX")
    network, runnable, way = _at(precision, plain, job)
    comparison = job.compared(expected, _answers(runnable, job.sample))
    job.require(
        comparison, plain, runnable, "use fp32 or a wider type, or more and more typical [rows]"
    )
    return network, figures | {f"network_to_{precision}": {**way, **comparison.as_json()}}


def _at(precision: str, plain: Any, job: Job) -> tuple[Any, Any, dict[str, str]]:
    """Lower the precision: the network, a form of it that runs here, and what to say of it."""
    try:
        if precision in ("fp16", "bf16"):
            network = half_from_onnx(plain, precision)
            # ONNX Runtime knows no bfloat16 layers on processors.
            runnable = half_from_onnx(plain, precision, emulated=True)
            return network, runnable, {}
        ranges = Ranges(kind="gpu" if precision == "int8" else "fp8")
        network = quantised_from_onnx(plain, job.sample, ranges)
    except BuildError as exc:
        message = f"{job.where}: {exc.message}"
        raise BuildError(message, hint=exc.hint) from exc
    return network, network, {"ranges": str(ranges)}


def _answers(model: Any, rows: Array) -> Array:
    """Run a graph node by node, a few rows at once: it keeps no more than that many in memory."""
    parts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    return np.concatenate([inner_values(model, [OUTPUT], part)[OUTPUT] for part in parts])
