"""Rules about models that call each other: ensembles, routers and their experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cascade_builder.manifest import file_digest

from .models import Model, Tensor, fit, tensors
from .rule import ERROR, WARNING, rule

__all__ = ["RULES"]


@rule(
    "ensemble-plain",
    ERROR,
    why="Triton refuses it: an ensemble has steps, and no instances or warm-up of its own",
    fix="say it in the config of the model that a step names",
)
def _ensemble_plain(model: Model) -> Iterator[str]:
    if model.runs_on != "ensemble":
        return
    for name in ("instance_group", "model_warmup"):
        if getattr(model.config, name):
            yield f"an ensemble with {name}"
    if not model.config.HasField("ensemble_scheduling"):
        yield "an ensemble without ensemble_scheduling"


@rule(
    "ensemble-models",
    ERROR,
    why="Triton refuses an ensemble if none of its repositories has the model of a step",
    fix="build the cascade anew, or name all repositories that the server loads",
    when_staged=False,  # a build has asked the server for what is not here
)
def _ensemble_models(model: Model) -> Iterator[str]:
    for step, _ in model.steps:
        if step.model_name not in model.neighbours:
            yield f"step {step.model_name!r} is no model of this repository"


@rule(
    "ensemble-tensors",
    ERROR,
    why="Triton refuses an ensemble whose tensors do not meet",
    fix="build the cascade anew; do not rename its models or tensors by hand",
)
def _ensemble_tensors(model: Model) -> Iterator[str]:
    if model.runs_on != "ensemble" or not model.steps:
        return
    made = tensors(model, "input")
    yield from _made(model, made)
    used = set()
    for step, called in model.steps:
        used |= set(step.input_map.values())
        for outer in sorted(step.input_map.values()):
            if outer not in made and not _may_make(model, outer):
                yield f"tensor {outer!r}, which {step.model_name!r} takes, is made by no step"
        if called is not None:
            yield from _taken(step.input_map, called, made)
    for name in sorted(set(tensors(model, "input")) - used):
        yield f"input {name!r} goes to no step"
    for name, form in sorted(tensors(model, "output").items()):
        if name in made and not fit(made[name], form):
            yield f"output {name!r} is {form}, the steps make {made[name]}"
        if name not in made and not _may_make(model, name):
            yield f"output {name!r} is made by no step"


def _made(model: Model, made: dict[str, Tensor]) -> Iterator[str]:
    """Add what the steps make, in whatever order they stand."""
    for step, called in model.steps:
        gives = {} if called is None else tensors(called, "output")
        for inner, outer in sorted(step.output_map.items()):
            if inner in gives:
                made[outer] = gives[inner]
            elif gives:  # else its config leaves the outputs to Triton, or is not known
                yield f"step {step.model_name!r} has no output {inner!r}"
                made[outer] = ("unknown", ())


def _may_make(model: Model, tensor: str) -> bool:
    """Say whether a step makes a tensor of which nothing else is known."""
    return any(tensor in step.output_map.values() for step, _ in model.steps)


def _taken(given: dict[str, str], called: Model, made: dict[str, Tensor]) -> Iterator[str]:
    """Hold what a step is given against what its model takes."""
    takes = tensors(called, "input")
    for inner, outer in sorted(given.items()) if takes else ():
        if inner not in takes:
            yield f"step {called.name!r} has no input {inner!r}"
        elif outer in made and made[outer][1] and not fit(made[outer], takes[inner]):
            yield f"{outer!r} is {made[outer]}, {called.name!r} takes {takes[inner]}"
    optional = {one.name for one in called.config.input if one.optional}
    for name in sorted(set(takes) - set(given) - optional):
        yield f"step {called.name!r} is not given its input {name!r}"


@rule(
    "ensemble-batch",
    ERROR,
    why="Triton refuses an ensemble that takes more rows than one of its steps",
    fix="give all of them the same max_batch_size",
)
def _ensemble_batch(model: Model) -> Iterator[str]:
    most = model.config.max_batch_size
    for step, called in model.steps:
        if called is not None and called.config.max_batch_size < most:
            yield f"step {step.model_name!r} takes {called.config.max_batch_size} rows of {most}"


@rule(
    "ensemble-queue",
    WARNING,
    why="before 26.02 a step that refuses for a full queue can hang the ensemble",
    fix="bound the queue behind the router (max_waiting_rows), or use timeouts",
)
def _ensemble_queue(model: Model) -> Iterator[str]:
    """Ours were flooded, as steps of an ensemble on 2.51: what they refuse comes back."""
    for step, called in model.steps:
        if called is None or called.core_module is not None:
            continue
        policy = called.config.dynamic_batching.default_queue_policy
        if policy.max_queue_size:
            most = policy.max_queue_size
            yield f"step {step.model_name!r} refuses what exceeds a queue of {most}"


@rule(
    "experts",
    ERROR,
    why="Triton does not see what a router calls: escalations would fail at run time",
    fix="build the cascade anew",
)
def _experts(model: Model) -> Iterator[str]:
    rows, answers = tensors(model, "input"), tensors(model, "output")
    for expert, called in model.experts:
        name = str(expert.get("model"))
        if called is None and name not in model.neighbours:
            yield f"expert {name!r} of manifest.json is no model of this repository"
        if called is None:
            continue
        if (takes := tensors(called, "input")) != rows:
            yield f"expert {name!r} takes {takes}, the router {rows}"
        logits = tensors(called, "output").get(str(expert.get("output", "LOGITS")))
        wanted = answers.get("SCORES")
        if wanted is not None and (logits is None or not fit(logits, wanted)):
            yield f"expert {name!r} gives logits {logits}, the router wants {wanted}"


@rule(
    "expert-batch",
    ERROR,
    why="a call that is larger than the expert takes fails, with all of its rows",
    fix="give all of them the same max_batch_size",
)
def _expert_batch(model: Model) -> Iterator[str]:
    most = model.config.max_batch_size
    for _, called in model.experts:
        if called is not None and called.config.max_batch_size < most:
            yield f"expert {called.name!r} takes {called.config.max_batch_size} rows of {most}"


@rule(
    "rate-limiter",
    ERROR,
    why="a router that holds a resource while it waits for an expert can wait for ever",
    fix="limit the experts, not the router",
)
def _rate_limiter(model: Model) -> Iterator[str]:
    groups = model.config.instance_group
    if model.is_router and any(group.rate_limiter.resources for group in groups):
        yield "the router holds resources of the rate limiter"


@rule(
    "router-instances",
    WARNING,
    why="execute blocks its instance: while one batch is decided, others wait",
    fix="[router] instances = 2",
)
def _router_instances(model: Model) -> Iterator[str]:
    if model.is_router and model.instances < 2:
        yield "the router has one instance"


@rule(
    "digests",
    ERROR,
    why="thresholds hold for the experts they were calibrated on",
    fix="build, then record and calibrate anew",
    when_staged=False,  # a build has just written them
)
def _digests(model: Model) -> Iterator[str]:
    for expert, called in model.experts:
        files = expert.get("files") or []
        served = called.file(str(files[0])) if called is not None and files else None
        beside = model.file(f"experts/{expert.get('name')}.onnx")
        for path in (served, beside):
            if path is not None and file_digest(path) != expert.get("digest"):
                yield f"{_short(path)} is not the file that manifest.json names"


@rule(
    "one-core",
    WARNING,
    why="models of one cascade then run different versions of this project",
    fix="build the cascade anew",
)
def _one_core(model: Model) -> Iterator[str]:
    ours = _core(model) if model.is_router else {}
    listed = model.manifest().get("models") if model.is_router else None
    for name in listed if isinstance(listed, list) else []:
        other = model.neighbours.get(str(name))
        if other is not None and _core(other) not in ({}, ours):
            yield f"the router core beside {other.name!r} is another one"


def _short(path: Path) -> Path:
    """Name a file below the repository."""
    depth = 4 if path.parent.name == "experts" else 3
    return Path(*path.parts[-depth:])


def _core(model: Model) -> dict[str, str]:
    """Say the digests of the router core beside a ``model.py``; empty: there is none."""
    folder = model.file("cascade_router")
    if folder is None:
        return {}
    return {path.name: file_digest(path) for path in sorted(folder.glob("*.py"))}


RULES = (
    _ensemble_plain,
    _ensemble_models,
    _ensemble_tensors,
    _ensemble_batch,
    _ensemble_queue,
    _experts,
    _expert_batch,
    _rate_limiter,
    _router_instances,
    _digests,
    _one_core,
)
