"""Rules about one model's config, whatever backend runs it."""

from __future__ import annotations

from collections.abc import Iterator

from .check import Model, Repository, Rule

__all__ = ["RULES"]

_FILES = {"python": "model.py", "onnxruntime": "model.onnx"}
_BESIDE = {
    "backend": ["policy.json", "manifest.json"],
    "onnx_expert": ["model.onnx"],
    "tensorrt_expert": ["model.plan"],
    "torch_expert": ["model.pt2"],
}
"""What a module of the router core reads beside its ``model.py``."""

_ON_CPU = {"backend", "control", "images_model", "text_model", "onnx_expert"}
"""Modules of the router core that need no GPU."""


def _readable(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.problem is not None:
        yield f"config.pbtxt is not what Triton's schema knows: {model.problem}"


def _named(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.config.name not in ("", model.name):
        yield f"the config is of {model.config.name!r}"


def _has_version(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.version is None:
        yield "there is no version folder"


def _has_file(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    default = model.config.default_model_filename or _FILES.get(model.runs_on)
    if default is None or model.version is None or model.config.cc_model_filenames:
        return
    for name in [default, *_BESIDE.get(model.core_module or "", [])]:
        if not (model.version / name).is_file():
            yield f"{model.version.name}/{name} is missing"


def _has_backend(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if not model.runs_on:
        yield "neither 'backend' nor 'platform' is given"


def _cached(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.config.response_cache.enable and model.runs_on in ("python", "ensemble"):
        yield "response_cache is enabled"


def _on_the_cpu(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    groups = model.config.instance_group
    if model.core_module in _ON_CPU and not (
        groups and all(group.kind == group.KIND_CPU for group in groups)
    ):
        yield f"{model.core_module} is not told to stay off the GPU"


def _cpu_without_gpus(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    for group in model.config.instance_group:
        if group.kind == group.KIND_CPU and group.gpus:
            yield f"an instance group of KIND_CPU names GPUs {list(group.gpus)}"


def _decoupled(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.config.model_transaction_policy.decoupled:
        yield "its transaction policy is decoupled"


def _batches(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    config = model.config
    scheduled = config.HasField("dynamic_batching") or config.HasField("sequence_batching")
    if config.max_batch_size > 1 and model.runs_on != "ensemble" and not scheduled:
        yield f"takes {config.max_batch_size} rows, but no batcher merges requests"


def _can_batch(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.config.max_batch_size == 0 and model.config.HasField("dynamic_batching"):
        yield "dynamic_batching with max_batch_size 0"


def _preferred(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    for size in model.config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= model.config.max_batch_size:
            yield f"prefers batches of {size}, takes up to {model.config.max_batch_size}"


def _priorities(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    batching = model.config.dynamic_batching
    if batching.priority_levels and not (
        1 <= batching.default_priority_level <= batching.priority_levels
    ):
        default, levels = batching.default_priority_level, batching.priority_levels
        yield f"default_priority_level is {default} of {levels} levels"


def _overrides(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    policy = model.config.dynamic_batching.default_queue_policy
    if policy.allow_timeout_override and not policy.default_timeout_microseconds:
        yield "requests may shorten a timeout that is not set"


def _ordered(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.config.dynamic_batching.preserve_ordering:
        yield "dynamic_batching.preserve_ordering is set"


def _warm_sizes(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    most = model.config.max_batch_size
    names = {one.name for one in model.config.input if not one.optional}
    for warmup in model.config.model_warmup:
        if warmup.batch_size > max(1, most):
            yield f"warmup {warmup.name!r} runs {warmup.batch_size} rows, the model takes {most}"
        if missing := sorted(names - set(warmup.inputs)):
            yield f"warmup {warmup.name!r} lacks input {', '.join(missing)}"


def _warm(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    sizes = {warmup.batch_size for warmup in model.config.model_warmup}
    wanted = {1, max(1, model.config.max_batch_size)}
    if model.runs_on in ("tensorrt", "onnxruntime") and not wanted <= sizes:
        missing = ", ".join(map(str, sorted(wanted - sizes)))
        yield f"no warmup of batch size {missing}"


def _counted(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.runs_on == "onnxruntime" and not model.config.instance_group:
        yield "no instance_group"


def _completed(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.runs_on == "onnxruntime" and model.config.max_batch_size == 0:
        yield "max_batch_size is 0"


def _optional(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    names = [one.name for one in model.config.input if one.optional]
    if names and model.config.HasField("dynamic_batching"):
        yield f"input {', '.join(names)} is optional"


def _cpu_tensors(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    key = "FORCE_CPU_ONLY_INPUT_TENSORS"
    if key in model.config.parameters:
        value = model.config.parameters[key].string_value
        if value not in ("yes", "no"):
            yield f"{key} is {value!r}"


RULES = [
    Rule(
        name="readable",
        level="error",
        why="Triton refuses a model whose config it cannot parse, and with it the whole start",
        fix="correct the field, or build the repository anew",
        look=_readable,
    ),
    Rule(
        name="name",
        level="error",
        why="Triton refuses a model whose config names another",
        fix="name it as its folder, or leave `name` out",
        look=_named,
    ),
    Rule(
        name="version-folder",
        level="error",
        why="Triton serves numbered folders only, of ensembles too",
        fix="make the folder `1`",
        look=_has_version,
    ),
    Rule(
        name="model-file",
        level="error",
        why="the backend looks for this file in the newest version folder",
        fix="run `cascade-builder build`: it writes what git does not keep",
        look=_has_file,
    ),
    Rule(
        name="backend",
        level="error",
        why="Triton then guesses by the files it finds, or refuses",
        fix='say backend: "python", "onnxruntime" or "tensorrt", or platform: "ensemble"',
        look=_has_backend,
    ),
    Rule(
        name="response-cache",
        level="error",
        why="the cache's key leaves request parameters out: points get each other's answers",
        fix="remove response_cache",
        look=_cached,
    ),
    Rule(
        name="cpu-kind",
        level="error",
        why="without KIND_CPU Triton makes one instance per GPU, each with a context of its own",
        fix="instance_group { kind: KIND_CPU }",
        look=_on_the_cpu,
    ),
    Rule(
        name="cpu-gpus",
        level="error",
        why="Triton refuses GPUs in a group of KIND_CPU",
        fix="remove `gpus`, or choose KIND_GPU",
        look=_cpu_without_gpus,
    ),
    Rule(
        name="decoupled",
        level="error",
        why="HTTP answers 501, nothing bounds what is under way, and an ensemble inherits it",
        fix="answer by the response sender of an ordinary model, as the router does",
        look=_decoupled,
    ),
    Rule(
        name="batcher",
        level="warning",
        why="every request runs alone, however many wait",
        fix="add dynamic_batching {}",
        look=_batches,
    ),
    Rule(
        name="batcher-without-batch",
        level="error",
        why="Triton refuses a batcher where there is no batch dimension",
        fix="set max_batch_size, 1 at least",
        look=_can_batch,
    ),
    Rule(
        name="preferred-batches",
        level="error",
        why="Triton refuses a preferred size that the model does not take",
        fix="choose sizes from 1 to max_batch_size",
        look=_preferred,
    ),
    Rule(
        name="priority",
        level="error",
        why="calls between models carry no priority: all of them get the default",
        fix="set default_priority_level, from 1 to priority_levels",
        look=_priorities,
    ),
    Rule(
        name="timeout-override",
        level="warning",
        why="a request may only shorten a timeout that is there, so deadlines have no effect",
        fix="set default_timeout_microseconds",
        look=_overrides,
    ),
    Rule(
        name="ordering",
        level="warning",
        why="answers wait for those of slower requests before them",
        fix="remove preserve_ordering",
        look=_ordered,
    ),
    Rule(
        name="warmup-fits",
        level="error",
        why="a warmup that the model does not take fails its load",
        fix="give every input, and sizes up to max_batch_size",
        look=_warm_sizes,
    ),
    Rule(
        name="warmup",
        level="warning",
        why="the first request of a size pays for kernels and memory, often seconds",
        fix="add model_warmup of batch size 1 and of the largest",
        look=_warm,
    ),
    Rule(
        name="instances",
        level="warning",
        why="onnxruntime makes two instances on the processor, or one on every GPU",
        fix="say instance_group { count: N }",
        look=_counted,
    ),
    Rule(
        name="onnx-batch",
        level="warning",
        why="onnxruntime then completes the config with a batch size of 4, or none",
        fix="set max_batch_size",
        look=_completed,
    ),
    Rule(
        name="optional-input",
        level="warning",
        why="requests with and without it are not batched together",
        fix="send what varies by request as a parameter",
        look=_optional,
    ),
    Rule(
        name="cpu-tensors",
        level="error",
        why="the Python backend takes yes or no only",
        fix="set it to yes or no",
        look=_cpu_tensors,
    ),
]
