"""Rules about how one model is served: instances, batcher, queue, warm-up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .models import Model
from .rule import ERROR, WARNING, rule

__all__ = ["RULES"]

_ON_CPU = {"backend", "control", "images_model", "text_model", "onnx_expert"}
"""Modules of the router core that need no GPU."""


@rule(
    "response-cache",
    ERROR,
    why="its key leaves request parameters out: points get each other's answers, and what was "
    "true stays true",
    fix="remove response_cache",
)
def _response_cache(model: Model) -> Iterator[str]:
    answers = [model, *(called for _, called in model.steps if called is not None)]
    routed = any(one.core_module in ("backend", "control") for one in answers)
    if routed and model.config.response_cache.enable:
        yield "response_cache is enabled"


@rule(
    "decoupled",
    ERROR,
    why="HTTP answers 501, nothing bounds what is under way, and an ensemble inherits it",
    fix="answer by the response sender of an ordinary model, as the router does",
)
def _decoupled(model: Model) -> Iterator[str]:
    if model.core_module is not None and model.config.model_transaction_policy.decoupled:
        yield "its transaction policy is decoupled"


@rule(
    "cpu-kind",
    WARNING,
    why="without KIND_CPU Triton makes one instance per GPU, each with a context of its own",
    fix="instance_group { kind: KIND_CPU }",
)
def _cpu_kind(model: Model) -> Iterator[str]:
    groups = model.config.instance_group
    if model.core_module in _ON_CPU and not (
        groups and all(group.kind == group.KIND_CPU for group in groups)
    ):
        yield f"{model.core_module} is not told to stay off the GPU"


@rule(
    "cpu-gpus",
    ERROR,
    why="Triton refuses GPUs in a group of KIND_CPU",
    fix="remove `gpus`, or choose KIND_GPU",
)
def _cpu_gpus(model: Model) -> Iterator[str]:
    for group in model.config.instance_group:
        if group.kind == group.KIND_CPU and group.gpus:
            yield f"an instance group of KIND_CPU names GPUs {list(group.gpus)}"


@rule(
    "instances",
    WARNING,
    why="onnxruntime makes two instances on the processor, or one on every GPU",
    fix="say instance_group { count: N }",
)
def _instances(model: Model) -> Iterator[str]:
    if model.runs_on == "onnxruntime" and not model.config.instance_group:
        yield "no instance_group"


@rule(
    "batcher",
    WARNING,
    why="every request runs alone, however many wait",
    fix="add dynamic_batching {}",
)
def _batcher(model: Model) -> Iterator[str]:
    config = model.config
    scheduled = config.HasField("dynamic_batching") or config.HasField("sequence_batching")
    if config.max_batch_size > 1 and model.runs_on != "ensemble" and not scheduled:
        yield f"takes {config.max_batch_size} rows, but no batcher merges requests"


@rule(
    "batcher-without-batch",
    WARNING,
    why="without a batch dimension it merges nothing",
    fix="set max_batch_size, or remove dynamic_batching",
)
def _batcher_without_batch(model: Model) -> Iterator[str]:
    if model.config.max_batch_size == 0 and model.config.HasField("dynamic_batching"):
        yield "dynamic_batching with max_batch_size 0"


@rule(
    "onnx-batch",
    WARNING,
    why="onnxruntime then completes the config with a batch size of 4, or none",
    fix="set max_batch_size",
)
def _onnx_batch(model: Model) -> Iterator[str]:
    if model.runs_on == "onnxruntime" and model.config.max_batch_size == 0:
        yield "max_batch_size is 0"


@rule(
    "preferred-batches",
    ERROR,
    why="Triton refuses a preferred size that the model does not take",
    fix="choose sizes from 1 to max_batch_size",
)
def _preferred_batches(model: Model) -> Iterator[str]:
    for size in model.config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= model.config.max_batch_size:
            yield f"prefers batches of {size}, takes up to {model.config.max_batch_size}"


@rule(
    "priority",
    ERROR,
    why="Triton refuses it; calls between models carry no priority, so all get the default",
    fix="set default_priority_level, from 1 to priority_levels",
)
def _priority(model: Model) -> Iterator[str]:
    batching = model.config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        yield f"default_priority_level is {default} of {levels} levels"


@rule(
    "timeout-override",
    WARNING,
    why="a request may only shorten a timeout that is there, so its own has no effect",
    fix="set default_timeout_microseconds",
)
def _timeout_override(model: Model) -> Iterator[str]:
    policy = model.config.dynamic_batching.default_queue_policy
    if policy.allow_timeout_override and not policy.default_timeout_microseconds:
        yield "requests may shorten a timeout that is not set"


@rule(
    "ordering",
    WARNING,
    why="answers wait for those of slower requests before them",
    fix="remove preserve_ordering",
)
def _ordering(model: Model) -> Iterator[str]:
    if model.config.dynamic_batching.preserve_ordering:
        yield "dynamic_batching.preserve_ordering is set"


@rule(
    "optional-input",
    WARNING,
    why="requests with and without it are not batched together",
    fix="send what varies by request as a parameter",
)
def _optional_input(model: Model) -> Iterator[str]:
    names = [one.name for one in model.config.input if one.optional]
    if names and model.config.HasField("dynamic_batching"):
        yield f"input {', '.join(names)} is optional"


@rule(
    "warmup-fits",
    ERROR,
    why="a warm-up that the model does not take fails its load",
    fix="give every input as the config describes it, and sizes up to max_batch_size",
)
def _warmup_fits(model: Model) -> Iterator[str]:
    most = max(1, model.config.max_batch_size)
    wanted = {one.name: one for one in model.config.input}
    required = {name for name, one in wanted.items() if not one.optional}
    for warmup in model.config.model_warmup:
        where = f"warm-up {warmup.name!r}"
        if warmup.batch_size > most:
            yield f"{where} runs {warmup.batch_size} rows, the model takes {most}"
        if missing := sorted(required - set(warmup.inputs)):
            yield f"{where} lacks input {', '.join(missing)}"
        for name, given in sorted(warmup.inputs.items()):
            # An input that the model does not have is left out by Triton.
            if name in wanted and not _same(given, wanted[name]):
                yield f"{where} gives input {name} another type or shape"


def _same(given: Any, wanted: Any) -> bool:
    """Say whether a warm-up's tensor is the one that a config describes."""
    if given.data_type != wanted.data_type or len(given.dims) != len(wanted.dims):
        return False
    return all(b in (-1, a) for a, b in zip(given.dims, wanted.dims, strict=True))


@rule(
    "warmup",
    WARNING,
    why="the first request of a size pays for kernels and memory, often seconds",
    fix="add model_warmup of batch size 1 and of the largest",
)
def _warmup(model: Model) -> Iterator[str]:
    sizes = {warmup.batch_size for warmup in model.config.model_warmup}
    missing = sorted({1, max(1, model.config.max_batch_size)} - sizes)
    if model.runs_on in ("tensorrt", "onnxruntime") and missing:
        yield f"no warm-up of batch size {', '.join(map(str, missing))}"


@rule(
    "cpu-tensors",
    ERROR,
    why="the Python backend refuses all but yes and no",
    fix="set it to yes or no",
)
def _cpu_tensors(model: Model) -> Iterator[str]:
    key = "FORCE_CPU_ONLY_INPUT_TENSORS"
    if model.runs_on == "python" and key in model.config.parameters:
        value = model.config.parameters[key].string_value
        if value not in ("yes", "no"):
            yield f"{key} is {value!r}"


RULES = (
    _response_cache,
    _decoupled,
    _cpu_kind,
    _cpu_gpus,
    _instances,
    _batcher,
    _batcher_without_batch,
    _onnx_batch,
    _preferred_batches,
    _priority,
    _timeout_override,
    _ordering,
    _optional_input,
    _warmup_fits,
    _warmup,
    _cpu_tensors,
)
