"""``config.pbtxt`` of every model, written through Triton's own protobuf schema.

Shapes are without the batch dimension: Triton adds it where ``max_batch_size`` is above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .runtime import OUTPUT
from .spec import Expert, Spec

if TYPE_CHECKING:
    from .sources.served import ServedModel

    ModelConfig = Any  # made by protobuf at run time, unknown to a type checker

__all__ = [
    "HEADER",
    "adapter_config",
    "control_config",
    "ensemble_config",
    "expert_config",
    "expert_in_router",
    "parse",
    "preprocess_config",
    "router_config",
    "router_options",
    "text",
]

HEADER = "# Written by cascade-builder from cascade.toml; edit the spec, not this file.\n"

PREPROCESS_INSTANCES = 2

UPPER_NICENESS = 5
"""How far upper tiers that run on the CPU yield to the first; 5 costs no throughput and brings easy
rows from 1.4 to 1.2 times the latency of a direct call (`benchmarks/README.md`)."""


def expert_config(
    spec: Spec, expert: Expert, target: str, capability: str | None = None
) -> ModelConfig:
    """Describe an expert: canonical rows in, logits out, its own batcher, warmed up.

    Args:
        spec: The cascade.
        expert: One of its experts.
        target: Never ``auto``.
        capability: Compute capability of the only GPUs that its files are for; None: of any.
    """
    config = _model(spec.model(expert.name), max_batch=spec.max_batch)
    _tensor(config.input.add(), spec.input.name, spec.input.dtype, spec.input.shape)
    _tensor(config.output.add(), OUTPUT, "FP32", (spec.classes,))
    _queued(config, expert)
    group = config.instance_group.add(count=expert.instances)
    threads = str(expert.threads)
    match target:
        case "onnxruntime":
            # Without a kind, a server with GPUs puts the instances there.
            config.backend = "onnxruntime"
            config.default_model_filename = "model.onnx"
            values = {"intra_op_thread_count": threads, "inter_op_thread_count": "1"}
            _parameters(config, values)
        case "tensorrt":
            _on_tensorrt(config, spec, capability)
        case "tensorrt-rtx":
            config.backend = "python"
            group.kind = group.KIND_GPU
        case "torch":
            config.backend = "python"
            if capability is not None:
                group.kind = group.KIND_GPU
            elif spec.program.compile:
                group.kind = group.KIND_CPU
            _parameters(config, {"intra_op_threads": threads, "precision": expert.precision})
        case _:
            config.backend = "python"
            group.kind = group.KIND_CPU
            niceness = 0 if expert is spec.experts[0] else UPPER_NICENESS
            _parameters(config, {"intra_op_threads": threads, "niceness": str(niceness)})
    if group.kind != group.KIND_CPU:  # else Triton refuses them
        group.gpus.extend(expert.serving.gpus)
    _warmed_up(config, spec, expert)
    return config


def _on_tensorrt(config: Any, spec: Spec, capability: str | None) -> None:
    """Say which plan is for which GPU, its profiles, and the batch sizes captured as graphs."""
    config.backend = "tensorrt"
    config.default_model_filename = "model.plan"
    if capability is not None:
        # For other GPUs Triton falls back to the default: a name that says what is missing.
        config.cc_model_filenames[capability] = "model.plan"
        config.default_model_filename = f"built_for_{capability}_only.plan"
    group = config.instance_group[0]
    group.kind = group.KIND_GPU
    profiles = spec.engine.batches(spec.max_batch)
    if len(profiles) > 1:
        group.profile.extend(str(i) for i in range(len(profiles)))
    for before, size in zip((0, *spec.engine.cuda_graphs), spec.engine.cuda_graphs, strict=False):
        cuda = config.optimization.cuda
        cuda.graphs = True
        # A smaller batch may use the graph too: what the missing rows hold mixes with no other.
        cuda.graph_spec.append(_graph(spec, size, before + 1))


def _graph(spec: Spec, size: int, least: int) -> Any:
    from tritonclient.grpc import model_config_pb2

    kind = model_config_pb2.ModelOptimizationPolicy.Cuda.GraphSpec
    graph = kind(batch_size=size)
    graph.input[spec.input.name].dim.extend(spec.input.shape)
    graph.graph_lower_bound.batch_size = least
    graph.graph_lower_bound.input[spec.input.name].dim.extend(spec.input.shape)
    return graph


def _queued(config: Any, expert: Expert) -> None:
    """Describe the batcher and what may wait before it."""
    serving = expert.serving
    _batched(config, expert.queue_delay_us)
    config.dynamic_batching.preferred_batch_size.extend(serving.preferred_batches)
    if serving.max_queue_requests or serving.queue_timeout_ms:
        # Not set without need: with a policy Triton no longer fetches a batch ahead.
        policy = config.dynamic_batching.default_queue_policy
        policy.max_queue_size = serving.max_queue_requests
        policy.default_timeout_microseconds = serving.queue_timeout_ms * 1000
        policy.allow_timeout_override = serving.queue_timeout_ms > 0


def _warmed_up(config: Any, spec: Spec, expert: Expert) -> None:
    """Run rows of zeros before serving: the first run of a size is slow."""
    for size in expert.serving.warmup_batches or sorted({1, spec.max_batch}):
        warmup = config.model_warmup.add(name=f"batch_{size}", batch_size=size, count=1)
        tensor = warmup.inputs[spec.input.name]
        tensor.data_type = _dtype(spec.input.dtype)
        tensor.dims.extend(spec.input.shape)
        tensor.zero_data = True


def router_options(spec: Spec, target: str) -> dict[str, str]:
    """Say the router's options, which lie in its manifest: versions side by side may differ.

    Args:
        spec: The cascade.
        target: What runs the experts; only ``embedded`` ones can run in the router's process.
    """
    router = spec.router
    options = {
        "calls_per_tier": str(router.calls_per_tier),
        "max_waiting_rows": str(router.max_waiting_rows),
        "on_tier_failure": router.on_tier_failure,
        "tier_timeout_ms": str(router.tier_timeout_ms),
    }
    here = expert_in_router(spec, target)
    if here is not None:
        options |= {"expert_here": here.name, "intra_op_threads": str(here.threads)}
    if router.abstain_below is not None:
        options["abstain_below"] = repr(router.abstain_below)
    return options


def router_config(spec: Spec) -> ModelConfig:
    """Describe the router: canonical rows in, answers out.

    No response cache, ever: its key leaves request parameters out, so it would mix up the answers
    of different operating points.

    Args:
        spec: The cascade.
    """
    config = _python(spec.model("router"), spec.max_batch, spec.router.instances)
    _tensor(config.input.add(), spec.input.name, spec.input.dtype, spec.input.shape)
    for name, dtype, shape in _answers(spec):
        _tensor(config.output.add(), name, dtype, shape)
    _batched(config)
    _bounded(config, spec)
    return config


def expert_in_router(spec: Spec, target: str) -> Expert | None:
    """Name the expert that runs in the router's process; None: each is called by BLS."""
    first = spec.experts[0]
    wanted = spec.router.runs_first_expert and first.source.gives != "served"
    return first if wanted and target == "embedded" else None


def adapter_config(spec: Spec, expert: Expert, served: ServedModel) -> ModelConfig:
    """Describe what stands before a model that is served already: one step, the names of experts.

    Args:
        spec: The cascade.
        expert: One of its experts.
        served: The model, which batches and warms up as its own configuration says.
    """
    config = _model(spec.model(expert.name), max_batch=spec.max_batch)
    config.platform = "ensemble"
    _tensor(config.input.add(), spec.input.name, spec.input.dtype, spec.input.shape)
    _tensor(config.output.add(), OUTPUT, "FP32", (spec.classes,))
    step = config.ensemble_scheduling.step.add(model_name=served.name, model_version=-1)
    step.input_map[served.input] = spec.input.name
    step.output_map[served.output] = OUTPUT
    return config


def preprocess_config(spec: Spec) -> ModelConfig:
    """Describe the model that decodes pictures, or tokenises texts."""
    form = spec.input
    config = _python(spec.model("preprocess"), spec.max_batch, PREPROCESS_INSTANCES)
    _tensor(config.input.add(), str(form.raw), "STRING", (1,))
    _tensor(config.output.add(), spec.input.name, spec.input.dtype, spec.input.shape)
    _batched(config)
    _bounded(config, spec)
    _parameters(config, {"size": str(form.size)} if form.text is None else form.text.parameters)
    return config


def control_config(spec: Spec) -> ModelConfig:
    """Describe the model that tells about the policy."""
    config = _python(spec.model("control"), 0, 1)
    _tensor(config.input.add(), "COMMAND", "STRING", (1,))
    _tensor(config.output.add(), "REPLY", "STRING", (1,))
    _parameters(config, {"router": spec.model("router")})
    return config


def ensemble_config(spec: Spec) -> ModelConfig:
    """Describe what clients call: the preprocessing model, if any, then the router."""
    config = _model(spec.name, max_batch=spec.max_batch)
    config.platform = "ensemble"
    if spec.input.raw is not None:
        _tensor(config.input.add(), spec.input.raw, "STRING", (1,))
        _step(config, spec.model("preprocess"), [spec.input.raw], [spec.input.name])
    else:
        _tensor(config.input.add(), spec.input.name, spec.input.dtype, spec.input.shape)
    for name, dtype, shape in _answers(spec):
        _tensor(config.output.add(), name, dtype, shape)
    outputs = [name for name, _, _ in _answers(spec)]
    _step(config, spec.model("router"), [spec.input.name], outputs)
    return config


def text(config: ModelConfig) -> str:
    """Write a config; equal configs give equal text."""
    from google.protobuf import text_format

    body: str = text_format.MessageToString(config)
    if config.max_batch_size == 0:
        # Protobuf leaves zeros out; here it says that there is no batch dimension.
        first, rest = body.split("\n", 1)
        body = f"{first}\nmax_batch_size: 0\n{rest}"
    return HEADER + body


def parse(body: str) -> ModelConfig:
    """Read a config as Triton does."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(body, model_config_pb2.ModelConfig())


def _model(name: str, *, max_batch: int) -> ModelConfig:
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2.ModelConfig(name=name, max_batch_size=max_batch)


def _python(name: str, max_batch: int, instances: int) -> ModelConfig:
    """Describe a Python model; on the CPU, or each instance would own a GPU context."""
    config = _model(name, max_batch=max_batch)
    config.backend = "python"
    group = config.instance_group.add(count=instances)
    group.kind = group.KIND_CPU
    return config


def _answers(spec: Spec) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        ("SCORES", "FP32", (spec.classes,)),
        ("LABEL", "INT32", (1,)),
        ("CONFIDENCE", "FP32", (1,)),
        ("TIER", "INT32", (1,)),
        ("DEGRADED", "INT32", (1,)),
    ]


def _tensor(slot: Any, name: str, dtype: str, shape: Sequence[int]) -> None:
    slot.name = name
    slot.data_type = _dtype(dtype)
    slot.dims.extend(shape)


def _dtype(name: str) -> int:
    from tritonclient.grpc import model_config_pb2

    return int(model_config_pb2.DataType.Value(f"TYPE_{name}"))


def _batched(config: Any, delay_us: int = 0) -> None:
    config.dynamic_batching.SetInParent()
    config.dynamic_batching.max_queue_delay_microseconds = delay_us


def _bounded(config: Any, spec: Spec) -> None:
    """Refuse what a flood brings beyond what may wait, instead of holding it in memory."""
    policy = config.dynamic_batching.default_queue_policy
    policy.max_queue_size = spec.router.max_waiting_requests


def _parameters(config: Any, values: Mapping[str, str]) -> None:
    for key, value in values.items():
        config.parameters[key].string_value = value


def _step(config: Any, model: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Add a step whose tensors keep their names in the ensemble."""
    step = config.ensemble_scheduling.step.add(model_name=model, model_version=-1)
    for name in inputs:
        step.input_map[name] = name
    for name in outputs:
        step.output_map[name] = name
