"""An expert of the embedded target: ONNX Runtime inside Triton's Python backend.

Config: one input, one output, ``parameters`` with ``intra_op_threads``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .triton_io import Array, config_of, parameter, respond_stacked

__all__ = ["TritonPythonModel", "session"]


def session(path: str, threads: int) -> Any:
    """Open an ONNX file the way it is served, so that costs measured elsewhere are its costs.

    Args:
        path: The ONNX file.
        threads: Threads inside one operator; 0: as many as there are cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # The experts share the cores: a thread that spins while it waits takes a neighbour's time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class TritonPythonModel:
    """Runs ``model.onnx`` on the stacked rows of each batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session."""
        config = config_of(args)
        folder = Path(args["model_repository"]) / args["model_version"]
        threads = int(parameter(config, "intra_op_threads", "0"))
        self._session = session(str(folder / "model.onnx"), threads)
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests with one run."""
        return respond_stacked(requests, self._input, self._run)

    def _run(self, rows: Array) -> dict[str, Array]:
        return {self._output: self._session.run([self._output], {self._input: rows})[0]}
