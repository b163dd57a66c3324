"""The few things every Python model of a repository does with Triton's API.

``triton_python_backend_utils`` exists only inside a server's stub, so it is imported where used.
Shapes: R requests of one ``execute``, n rows of one request.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .errors import BusyError, CascadeError, DeadError, RequestError, ServerError, TierError
from .group import Array, stack

__all__ = [
    "Array",
    "answered",
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

_log = logging.getLogger(__name__)

_BUSY = ("exceeds maximum queue size", "request timeout expired")
"""What Triton 2.51 says of a full queue, with the status of a fault."""

_DEAD = ("is not healthy", "is not ready", "is not found", "no available versions", "shared memory")
"""What it says where no row can be to blame."""

_STACK = "\nAt:\n"
"""What comes before the stack of a Python model that raised, which is no client's business."""


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
    # A message may quote what a client sent, and that need not be text.
    text = str(error).encode(errors="backslashreplace").decode()
    return pb_utils.InferenceResponse(error=codes(text, code))


def answered(request: Any, answer: Callable[[Any], Any]) -> Any:
    """Answer a request, whatever happens, so that its batch mates are answered, too.

    Args:
        request: Of one ``execute``.
        answer: Makes its response, or raises.

    Returns:
        A response; a fault of ours goes to the log, and none of it to the client.
    """
    try:
        return answer(request)
    except CascadeError as error:
        return error_response(error)
    except Exception:  # noqa: BLE001  # Triton would fail the whole batch, with our traceback
        _log.exception("fault in the model")
        return error_response(ServerError("fault in the model, see the server's log"))


def send(sender: Any, reply: Any) -> None:
    """Answer a request that ``execute`` left open, finally.

    Triton lets a sender try once (2.51: it counts as used before room for the answer is found). So
    where that fails, because shared memory is full or the client is gone, nobody answers; the
    caller's own timeout ends the request.
    """
    pb_utils = _pb()
    try:
        sender.send(reply, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except pb_utils.TritonModelException as exc:
        _log.error("a request stays without an answer, it could not be sent: %s", exc)


def call(model: str, inputs: dict[str, Array], output: str, version: int = -1) -> Array:
    """Run another model of this server (BLS) and take one of its outputs.

    Args:
        model: Its name.
        inputs: (n, ...) rows by name of the input.
        output: Name of the output.
        version: Which version of it; -1: the newest loaded.

    Raises:
        BusyError: With Triton's text, when the model's queue is full.
        DeadError: With Triton's text, when the model is down.
        TierError: With Triton's text, when the model does not answer for another reason.
    """
    pb_utils = _pb()
    try:
        reply = pb_utils.InferenceRequest(
            model_name=model,
            model_version=version,
            requested_output_names=[output],
            inputs=[pb_utils.Tensor(name, rows) for name, rows in inputs.items()],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
    except pb_utils.TritonModelException as exc:  # such as no room left in the shared memory
        raise DeadError(str(exc)) from exc
    if reply.has_error():
        raise _error_of(reply.error().message())
    # A copy: the array is a view that dies with the response.
    return np.array(pb_utils.get_output_tensor_by_name(reply, output).as_numpy())


def _error_of(text: str) -> CascadeError:
    """Sort Triton 2.51's failures of a call by what they say: all have one status."""
    text = text.partition(_STACK)[0].rstrip()
    said = text.lower()
    if any(sign in said for sign in _BUSY):
        return BusyError(text)
    return DeadError(text) if any(sign in said for sign in _DEAD) else TierError(text)


def respond_stacked(
    requests: Sequence[Any], name: str, run: Callable[[Array], dict[str, Array]]
) -> list[Any]:
    """Run all requests of one ``execute`` as one batch and hand each its rows.

    Where that fails each is run alone, so that one with rows that cannot be run harms no other.

    Args:
        requests: R requests.
        name: Their input, (n, ...) each.
        run: (sum of n, ...) rows in, arrays with as many rows out; may raise ``TierError``.

    Returns:
        R responses.
    """
    if len(requests) > 1:
        with contextlib.suppress(Exception):  # of whom, each alone will show
            return _stacked(requests, name, run)

    def alone(request: Any) -> Any:
        try:
            return _stacked([request], name, run)[0]
        except TierError as error:  # a fault of the model: UNAVAILABLE would be one of its load
            raise ServerError(error.message, hint=error.hint) from error

    return [answered(request, alone) for request in requests]


def _stacked(
    requests: Sequence[Any], name: str, run: Callable[[Array], dict[str, Array]]
) -> list[Any]:
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
