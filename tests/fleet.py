"""A model that Triton serves already, as somebody else laid it out: other names, two outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["CONFIG", "lay_out"]

CONFIG = """
name: "fleet"
backend: "python"
max_batch_size: 16
input [ { name: "x", data_type: TYPE_FP32, dims: [ 8 ] } ]
output [
  { name: "scores", data_type: TYPE_FP32, dims: [ 3 ] },
  { name: "norm", data_type: TYPE_FP32, dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU } ]
dynamic_batching { }
"""

_MODEL = """
import pathlib

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        self.weights = np.load(folder / "weights.npy")

    def execute(self, requests):
        replies = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            norm = np.linalg.norm(x, axis=1, keepdims=True).astype(np.float32)
            found = {"scores": x @ self.weights, "norm": norm}
            wanted = request.requested_output_names()
            outputs = [pb_utils.Tensor(k, v) for k, v in found.items() if k in wanted]
            replies.append(pb_utils.InferenceResponse(output_tensors=outputs))
        return replies
"""


def lay_out(repository: Path, weights: Any, config: str = CONFIG) -> Path:
    """Write the model's folder.

    Args:
        repository: The model repository.
        weights: (8, 3) float32, rows to scores.
        config: Text of its ``config.pbtxt``.
    """
    folder = repository / "fleet"
    (folder / "1").mkdir(parents=True, exist_ok=True)
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / "model.py").write_text(_MODEL)
    np.save(folder / "1" / "weights.npy", np.asarray(weights, dtype=np.float32))
    return folder
