"""gRPC requests that are wrong, as the bytes of one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .bad_values import BAD_PARAMETERS, BAD_SHAPES, any_of, hurt

__all__ = ["MUTATIONS", "request"]

Rng = np.random.Generator


def request(model: str, name: str, datatype: str, shape: list[int], raw: bytes) -> Any:
    """Make a good request of one tensor."""
    from tritonclient.grpc import service_pb2

    made = service_pb2.ModelInferRequest(model_name=model)
    made.inputs.add(name=name, datatype=datatype, shape=shape)
    made.raw_input_contents.append(raw)
    return made


def _set(target: Any, value: Any) -> None:
    match value:
        case bool():
            target.bool_param = value
        case int() if -(2**63) <= value < 2**63:
            target.int64_param = value
        case int() | float():
            target.double_param = float(value)
        case _:
            target.string_param = value


def _shape(rng: Rng, given: Any) -> None:
    del given.inputs[0].shape[:]
    given.inputs[0].shape.extend(any_of(rng, BAD_SHAPES))


def _dtype(rng: Rng, given: Any) -> None:
    bad = ("FP64", "FP16", "INT32", "BYTES", "BF16", "FP99", "", "x" * 10_000)
    given.inputs[0].datatype = any_of(rng, bad)


def _name(rng: Rng, given: Any) -> None:
    given.inputs[0].name = any_of(rng, ("Y", "", "x" * 100_000, "\0", "../X", "ÿ"))


def _model(rng: Rng, given: Any) -> None:
    given.model_name = any_of(rng, ("", "nobody", "x" * 100_000, "../..", "\0", "null\n"))


def _version(rng: Rng, given: Any) -> None:
    given.model_version = any_of(rng, ("999", "-1", "x", "0", "1" * 500, "1.5"))


def _parameter(rng: Rng, given: Any) -> None:
    key, value = any_of(rng, BAD_PARAMETERS)
    _set(given.parameters[key], value)


def _empty_parameter(rng: Rng, given: Any) -> None:
    given.parameters[any_of(rng, ("cascade_point", "cascade_min_tier", "x"))].SetInParent()


def _reserved(rng: Rng, given: Any) -> None:
    key = any_of(rng, ("sequence_id", "priority", "timeout", "sequence_start", "triton_x"))
    _set(given.parameters[key], any_of(rng, (-1, 0, 1, 2**62, "x", True, 0.5)))


def _region(rng: Rng, given: Any) -> None:
    del given.raw_input_contents[:]
    parameters = given.inputs[0].parameters
    _set(parameters["shared_memory_region"], any_of(rng, ("nobody", "", "../../x", "x" * 5000)))
    _set(parameters["shared_memory_byte_size"], any_of(rng, (16, -1, 2**62)))


def _raw_length(rng: Rng, given: Any) -> None:
    given.raw_input_contents[0] = rng.bytes(any_of(rng, (0, 1, 15, 17, 4096, 1_000_000)))


def _raw_count(rng: Rng, given: Any) -> None:
    n = any_of(rng, (0, 2, 50))
    raw = given.raw_input_contents[0]
    del given.raw_input_contents[:]
    given.raw_input_contents.extend([raw] * n)


def _both_contents(rng: Rng, given: Any) -> None:
    given.inputs[0].contents.fp32_contents.extend([1.0] * any_of(rng, (1, 4, 1000)))
    if rng.random() < 0.5:
        del given.raw_input_contents[:]


def _inputs(rng: Rng, given: Any) -> None:
    if rng.random() < 0.3:
        del given.inputs[:]
        return
    for _ in range(any_of(rng, (1, 20))):
        given.inputs.add().CopyFrom(given.inputs[0])
        given.raw_input_contents.append(given.raw_input_contents[0])


def _outputs(rng: Rng, given: Any) -> None:
    for name in any_of(rng, (("NO_SUCH",), ("",), ("LABEL", "LABEL"), ("x" * 50_000,))):
        output = given.outputs.add(name=name)
        if rng.random() < 0.5:
            _set(output.parameters["classification"], any_of(rng, (-3, 0, 2**40)))


def _hurt(rng: Rng, given: Any) -> bytes:
    return hurt(rng, given.SerializeToString())


Mutation = Callable[[Rng, Any], bytes | None]

MUTATIONS: tuple[Mutation, ...] = (
    *(_shape, _dtype, _name, _model, _version, _parameter, _parameter, _empty_parameter),
    *(_reserved, _region, _raw_length, _raw_count, _both_contents, _inputs, _outputs),
    *(_hurt, _hurt, _hurt),
)
"""Ways to make a request wrong: in place, or as other bytes."""
