"""An ONNX file run exactly as it is served."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError
from cascade_router.onnx_expert import session

__all__ = ["OUTPUT", "OnnxExpert", "inner_values"]

OUTPUT = "LOGITS"
"""Name of the output of every expert."""


class OnnxExpert:
    """An ONNX file that can be called.

    Args:
        path: The file.
        threads: Threads within one call.

    Raises:
        BuildError: If ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            self._session = session(str(path), threads)
        except Exception as exc:  # its error classes share no base but Exception
            message = f"{path.name}: ONNX Runtime cannot load it: {exc}"
            raise BuildError(message, hint="remove the folder `build` and build again") from exc
        self._input: str = self._session.get_inputs()[0].name

    def __call__(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run.

        Args:
            rows: (N, ...) canonical rows.

        Returns:
            (N, C) float32 logits.
        """
        return np.asarray(self._session.run([OUTPUT], {self._input: rows})[0])


def inner_values(
    model: Any, names: Iterable[str], rows: npt.NDArray[Any]
) -> dict[str, npt.NDArray[Any]]:
    """Run a graph node by node, nothing fused, and take tensors from inside it.

    Args:
        model: ``onnx.ModelProto``; not changed.
        names: Of tensors; those that no node makes are left out.
        rows: (n, ...) canonical rows.

    Returns:
        The tensors by name, in the order of ``names``.
    """
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    made = {name for node in probe.graph.node for name in node.output}
    wanted = [name for name in dict.fromkeys(names) if name in made]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = opened.run(wanted, {model.graph.input[0].name: rows})
    return dict(zip(wanted, values, strict=True))
