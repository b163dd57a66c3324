"""An expert of the embedded target: ONNX Runtime inside Triton's Python backend.

Config: one input, one output, ``parameters`` with ``intra_op_threads`` and ``niceness``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import PolicyError, TierError
from .triton_io import Array, config_of, parameter, respond_stacked

__all__ = ["TritonPythonModel", "runner", "session"]


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


def runner(path: Path, threads: int) -> Callable[[Array], Array]:
    """Open an ONNX file with one input and one output as a function of stacked rows.

    Args:
        path: The ONNX file.
        threads: Threads inside one operator.

    Returns:
        (n, ...) rows -> (n, C) logits; raises ``TierError`` when the run fails.

    Raises:
        PolicyError: If the file is missing or cannot be opened.
    """
    try:
        opened = session(str(path), threads)
    except Exception as exc:  # its error classes share no base but Exception
        message = f"{path.name}: cannot be opened: {exc}"
        raise PolicyError(message, hint="run `cascade-builder build`") from exc
    name, output = opened.get_inputs()[0].name, opened.get_outputs()[0].name

    def run(rows: Array) -> Array:
        try:
            logits: Array = opened.run([output], {name: rows})[0]
        except Exception as exc:
            message = f"ONNX Runtime: {exc}"
            raise TierError(message) from exc
        return logits

    return run


class TritonPythonModel:
    """Runs ``model.onnx`` on the stacked rows of each batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session."""
        config = config_of(args)
        folder = Path(args["model_repository"]) / args["model_version"]
        threads = int(parameter(config, "intra_op_threads", "0"))
        # Upper tiers yield the cores to the first, so that easy rows do not wait for hard ones.
        os.nice(int(parameter(config, "niceness", "0")))
        self._run = runner(folder / "model.onnx", threads)
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests with one run."""
        return respond_stacked(requests, self._input, lambda rows: {self._output: self._run(rows)})
