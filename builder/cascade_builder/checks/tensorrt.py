"""Rules about plans, their GPUs, and options that TensorRT alone knows.

No server of this project's tests has that backend: what stands here is from its sources.
"""

from __future__ import annotations

from collections.abc import Iterator

from .models import Model
from .rule import ERROR, WARNING, rule

__all__ = ["RULES"]


@rule(
    "engine-on-gpu",
    ERROR,
    why="TensorRT runs on GPUs alone",
    fix="instance_group { kind: KIND_GPU }",
)
def _engine_on_gpu(model: Model) -> Iterator[str]:
    engine = model.runs_on == "tensorrt" or model.core_module == "tensorrt_expert"
    if engine and any(group.kind == group.KIND_CPU for group in model.config.instance_group):
        yield "an engine in an instance group of KIND_CPU"


@rule(
    "plan-file",
    ERROR,
    why="the tensorrt backend opens it: the plan for the GPU at hand, else the default",
    fix="run `cascade-builder build` on the machine with the GPU, or remove the entry",
)
def _plan_file(model: Model) -> Iterator[str]:
    if model.runs_on != "tensorrt" or model.version is None:
        return
    plans = dict(model.config.cc_model_filenames)
    names = [f"{name} (for GPUs of {key})" for key, name in plans.items() if not model.file(name)]
    usual = model.config.default_model_filename or "model.plan"
    names += [] if plans or model.file(usual) else [usual]
    for name in sorted(names):
        yield f"{model.version.name}/{name} is missing"


@rule(
    "wrong-fallback",
    WARNING,
    why="on a GPU that is not listed Triton opens the default, and fails with a riddle",
    fix="give default_model_filename a name that says what is missing",
)
def _wrong_fallback(model: Model) -> Iterator[str]:
    default = model.config.default_model_filename or "model.plan"
    if default in model.config.cc_model_filenames.values():
        yield f"{default} is both the plan of one kind of GPU and what all others fall back to"


@rule(
    "profiles",
    ERROR,
    why="Triton refuses optimisation profiles for all but TensorRT, which names them by number",
    fix='profile: ["0", "1"], or remove it',
)
def _profiles(model: Model) -> Iterator[str]:
    for group in model.config.instance_group:
        if group.profile and model.runs_on != "tensorrt":
            yield f"profiles {list(group.profile)} for {model.runs_on}"
        for text in group.profile if model.runs_on == "tensorrt" else ():
            if not text.isdecimal():
                yield f"profile {text!r}"


@rule(
    "graph-sizes",
    ERROR,
    why="a graph is captured for a size that the model takes, and stands for smaller ones",
    fix="choose sizes from 1 to max_batch_size",
)
def _graph_sizes(model: Model) -> Iterator[str]:
    most = model.config.max_batch_size
    for graph in model.config.optimization.cuda.graph_spec:
        if graph.batch_size > most:
            yield f"a graph of {graph.batch_size} rows, the model takes {most}"
        if graph.graph_lower_bound.batch_size > graph.batch_size:
            yield f"a graph of {graph.batch_size} rows with a larger lower bound"


@rule(
    "few-graphs",
    WARNING,
    why="with a batcher only sizes 1 and the largest are captured; others run without",
    fix="say graph_spec for each size, with a graph_lower_bound: [tensorrt] cuda_graphs",
)
def _few_graphs(model: Model) -> Iterator[str]:
    config = model.config
    sizes = config.optimization.cuda.graph_spec or config.dynamic_batching.preferred_batch_size
    graphs = model.runs_on == "tensorrt" and config.optimization.cuda.graphs
    if graphs and config.HasField("dynamic_batching") and not sizes:
        yield "CUDA graphs without a graph_spec"


@rule(
    "tensorrt-only",
    WARNING,
    why="no other backend looks at it",
    fix="remove it",
)
def _tensorrt_only(model: Model) -> Iterator[str]:
    if model.runs_on == "tensorrt":
        return
    options = model.config.optimization
    for name in ("cuda", "gather_kernel_buffer_threshold", "priority", "eager_batching"):
        given = options.HasField(name) if name == "cuda" else getattr(options, name)
        if given:
            yield f"optimization.{name} for {model.runs_on or 'no backend'}"


RULES = (
    _engine_on_gpu,
    _plan_file,
    _wrong_fallback,
    _profiles,
    _graph_sizes,
    _few_graphs,
    _tensorrt_only,
)
