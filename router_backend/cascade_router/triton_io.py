"""The few things every Python model of a repository does with Triton's API.

``triton_python_backend_utils`` exists only inside a server's stub, so it is imported where used.
Shapes: R requests of one ``execute``, n rows of one request.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BusyError, CascadeError, RequestError, TierError
from .escalation import stack

__all__ = [
    "Array",
    "call",
    "config_of",
    "error_response",
    "input_of",
    "parameter",
    "respond_stacked",
    "response",
    "send",
    "zeros_for",
]

Array = npt.NDArray[Any]


@functools.cache  # looked up several times for each request
def _pb() -> Any:
    import triton_python_backend_utils as pb_utils

    return pb_utils


def parameter(config: dict[str, Any], name: str, default: str) -> str:
    """Read a text of the ``parameters`` of a model's config."""
    entry = config.get("parameters", {}).get(name, {"string_value": default})
    return str(entry["string_value"])


def input_of(request: Any, name: str) -> Array:
    """Take an input of a request as an array that stays valid while the request does."""
    return np.asarray(_pb().get_input_tensor_by_name(request, name).as_numpy())


def response(outputs: Iterable[tuple[str, Array]]) -> Any:
    """Build a response from names and arrays, which must be contiguous."""
    pb_utils = _pb()
    tensors = [pb_utils.Tensor(name, array) for name, array in outputs]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def error_response(error: CascadeError) -> Any:
    """Build the response that carries one of our errors, with the status of whose fault it is."""
    pb_utils = _pb()
    codes = pb_utils.TritonError
    match error:
        case RequestError():
            code = codes.INVALID_ARG
        case BusyError() | TierError():
            code = codes.UNAVAILABLE
        case _:
            code = codes.INTERNAL
    return pb_utils.InferenceResponse(error=codes(str(error), code))


def send(sender: Any, reply: Any) -> None:
    """Answer a request that ``execute`` left open, finally."""
    sender.send(reply, flags=_pb().TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def call(model: str, inputs: dict[str, Array], output: str) -> Array:
    """Run another model of this server (BLS) and take one of its outputs.

    Raises:
        TierError: With Triton's text, when the model does not answer.
    """
    pb_utils = _pb()
    reply = pb_utils.InferenceRequest(
        model_name=model,
        requested_output_names=[output],
        inputs=[pb_utils.Tensor(name, rows) for name, rows in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
    ).exec()
    if reply.has_error():
        raise TierError(reply.error().message())
    # A copy: the array is a view that dies with the response.
    return np.array(pb_utils.get_output_tensor_by_name(reply, output).as_numpy())


def respond_stacked(
    requests: Sequence[Any], name: str, run: Callable[[Array], dict[str, Array]]
) -> list[Any]:
    """Run all requests of one ``execute`` as one batch and hand each its rows.

    Args:
        requests: R requests.
        name: Their input, (n, ...) each.
        run: (sum of n, ...) rows in, arrays with as many rows out.

    Returns:
        R responses.
    """
    inputs = [input_of(request, name) for request in requests]
    outputs = run(stack(inputs))
    ends = np.cumsum([len(rows) for rows in inputs]).tolist()
    starts = [0, *ends[:-1]]
    return [
        response([(key, rows[start:end]) for key, rows in outputs.items()])
        for start, end in zip(starts, ends, strict=True)
    ]


def zeros_for(port: dict[str, Any], n_rows: int) -> Array:
    """Make rows of zeros for an input or output of a config."""
    dtype = _pb().triton_string_to_numpy(port["data_type"])
    return np.zeros((n_rows, *(int(side) for side in port["dims"])), dtype=dtype)


def config_of(args: dict[str, str]) -> dict[str, Any]:
    """Parse the model config that Triton hands to ``initialize``."""
    config: dict[str, Any] = json.loads(args["model_config"])
    return config
