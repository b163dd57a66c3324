"""Rules about plans, their GPUs, and options that TensorRT alone knows."""

from __future__ import annotations

from collections.abc import Iterator

from .check import Model, Repository, Rule

__all__ = ["RULES"]


def _on_a_gpu(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    engine = model.runs_on == "tensorrt" or model.core_module == "tensorrt_expert"
    if engine and any(group.kind == group.KIND_CPU for group in model.config.instance_group):
        yield "an engine in an instance group of KIND_CPU"


def _plans(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    for capability, name in sorted(model.config.cc_model_filenames.items()):
        if model.version is not None and not (model.version / name).is_file():
            yield f"cc_model_filenames {capability}: {model.version.name}/{name} is missing"


def _plan(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.runs_on != "tensorrt" or model.version is None or model.config.cc_model_filenames:
        return
    if not (model.version / (model.config.default_model_filename or "model.plan")).is_file():
        yield f"{model.version.name}/model.plan is missing"


def _fallback(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    plans = set(model.config.cc_model_filenames.values())
    default = model.config.default_model_filename or "model.plan"
    if plans and default in plans:
        yield f"{default} is both the plan of one kind of GPU and what all others fall back to"


def _profiles(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    for group in model.config.instance_group:
        if group.profile and model.runs_on != "tensorrt":
            yield f"profiles {list(group.profile)} for {model.runs_on}"
        for text in group.profile if model.runs_on == "tensorrt" else ():
            if not text.isdecimal():
                yield f"profile {text!r}"


def _graph_sizes(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    for graph in model.config.optimization.cuda.graph_spec:
        if graph.batch_size > model.config.max_batch_size:
            most = model.config.max_batch_size
            yield f"a graph of {graph.batch_size} rows, the model takes {most}"
        if graph.HasField("graph_lower_bound") and (
            graph.graph_lower_bound.batch_size > graph.batch_size
        ):
            yield f"a graph of {graph.batch_size} rows with a larger lower bound"


def _few_graphs(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    config = model.config
    sizes = config.optimization.cuda.graph_spec or config.dynamic_batching.preferred_batch_size
    if config.optimization.cuda.graphs and config.HasField("dynamic_batching") and not sizes:
        yield "CUDA graphs without a graph_spec"


def _without_effect(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    options = model.config.optimization
    if model.runs_on == "tensorrt":
        return
    for name in ("cuda", "gather_kernel_buffer_threshold", "priority", "eager_batching"):
        value = getattr(options, name)
        if value.ByteSize() if name == "cuda" else value:
            yield f"optimization.{name} for {model.runs_on or 'no backend'}"


def _copies(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.runs_on == "tensorrt" and model.instances > 1:
        yield f"{model.instances} instances"


RULES = [
    Rule(
        name="engine-on-gpu",
        level="error",
        why="TensorRT runs on GPUs alone",
        fix="instance_group { kind: KIND_GPU }",
        look=_on_a_gpu,
    ),
    Rule(
        name="plan-file",
        level="error",
        why="the tensorrt backend looks for this file",
        fix="run `cascade-builder build` on the machine with the GPU",
        look=_plan,
    ),
    Rule(
        name="plans-by-gpu",
        level="error",
        why="the tensorrt backend opens this file on GPUs of that compute capability",
        fix="build there, or remove the entry",
        look=_plans,
    ),
    Rule(
        name="wrong-fallback",
        level="warning",
        why="on a GPU that is not listed Triton opens the default, which fails with a riddle",
        fix="give default_model_filename a name that says what is missing",
        look=_fallback,
    ),
    Rule(
        name="profiles",
        level="error",
        why="only the tensorrt backend has optimisation profiles, named by number",
        fix='profile: ["0", "1"], or remove it',
        look=_profiles,
    ),
    Rule(
        name="graph-sizes",
        level="error",
        why="a graph is captured for a size that the model takes, and stands for smaller ones",
        fix="choose sizes from 1 to max_batch_size",
        look=_graph_sizes,
    ),
    Rule(
        name="few-graphs",
        level="warning",
        why="with a batcher only sizes 1 and the largest are captured; others run without",
        fix="say graph_spec for each size, with a graph_lower_bound: [tensorrt] cuda_graphs",
        look=_few_graphs,
    ),
    Rule(
        name="tensorrt-only",
        level="warning",
        why="no other backend looks at it",
        fix="remove it",
        look=_without_effect,
    ),
    Rule(
        name="weights-per-instance",
        level="warning",
        why="an engine with a dynamic batch is not shared: each instance holds all weights",
        fix="one instance, if GPU memory is short",
        look=_copies,
    ),
]
