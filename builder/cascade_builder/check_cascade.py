"""Rules about models that call each other: ensembles, routers and their experts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .check import Model, Repository, Rule

__all__ = ["RULES"]


def _plain(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.runs_on != "ensemble":
        return
    config = model.config
    for name in ("instance_group", "model_warmup"):
        if getattr(config, name):
            yield f"an ensemble with {name}"
    if config.HasField("dynamic_batching"):
        yield "an ensemble with dynamic_batching"


def _steps(model: Model, repository: Repository) -> Iterator[str]:
    """Every step's model is there, and every tensor has the type and shape it is given."""
    made = _tensors(model.config.input)
    for step in model.config.ensemble_scheduling.step:
        called = repository.models.get(step.model_name)
        if called is None:
            yield f"step {step.model_name!r} is no model of this repository"
            continue
        takes, gives = _tensors(called.config.input), _tensors(called.config.output)
        for inner, outer in sorted(step.input_map.items()):
            if inner not in takes:
                yield f"step {step.model_name!r} has no input {inner!r}"
            elif outer not in made:
                yield f"tensor {outer!r} is made by no step before {step.model_name!r}"
            elif not _fit(made[outer], takes[inner]):
                yield f"{outer!r} is {made[outer]}, {step.model_name!r} takes {takes[inner]}"
        for inner, outer in sorted(step.output_map.items()):
            if inner not in gives:
                yield f"step {step.model_name!r} has no output {inner!r}"
            else:
                made[outer] = gives[inner]
    for name, form in _tensors(model.config.output).items():
        if model.runs_on == "ensemble" and not _fit(made.get(name, ("", ())), form):
            yield f"output {name!r} is {form}, the steps make {made.get(name, 'none')}"


def _step_sizes(model: Model, repository: Repository) -> Iterator[str]:
    for step in model.config.ensemble_scheduling.step:
        called = repository.models.get(step.model_name)
        if called is not None and called.config.max_batch_size < model.config.max_batch_size:
            sizes = f"{called.config.max_batch_size} rows of {model.config.max_batch_size}"
            yield f"step {step.model_name!r} takes {sizes}"


def _bounded_steps(model: Model, repository: Repository) -> Iterator[str]:
    for step in model.config.ensemble_scheduling.step:
        called = repository.models.get(step.model_name)
        if called is None:
            continue
        size = called.config.dynamic_batching.default_queue_policy.max_queue_size
        if size:
            yield f"step {step.model_name!r} refuses what exceeds a queue of {size}"


def _experts(model: Model, repository: Repository) -> Iterator[str]:
    """What the router calls is there and speaks of the same tensors."""
    if not model.is_router:
        return
    rows = _tensors(model.config.input)
    (classes,) = ([one.dims for one in model.config.output if one.name == "SCORES"] or [[]])[:1]
    for expert in _listed(model):
        name = str(expert.get("model"))
        called = repository.models.get(name)
        if called is None:
            yield f"expert {name!r} of manifest.json is no model of this repository"
            continue
        if _tensors(called.config.input) != rows:
            yield f"expert {name!r} takes {_tensors(called.config.input)}, the router {rows}"
        logits = _tensors(called.config.output).get(str(expert.get("output", "LOGITS")))
        wanted = ("TYPE_FP32", tuple(classes))
        if logits is None or not _fit(logits, wanted):
            yield f"expert {name!r} gives logits {logits}, the router wants {wanted}"


def _expert_sizes(model: Model, repository: Repository) -> Iterator[str]:
    for expert in _listed(model) if model.is_router else ():
        called = repository.models.get(str(expert.get("model")))
        if called is not None and called.config.max_batch_size < model.config.max_batch_size:
            sizes = f"{called.config.max_batch_size} rows of {model.config.max_batch_size}"
            yield f"expert {called.name!r} takes {sizes}"


def _limited(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.is_router and any(
        group.rate_limiter.resources for group in model.config.instance_group
    ):
        yield "the router holds resources of the rate limiter"


def _several(model: Model, repository: Repository) -> Iterator[str]:
    del repository
    if model.is_router and model.instances < 2:
        yield "the router has one instance"


def _files(model: Model, repository: Repository) -> Iterator[str]:
    """The files served are those that the manifest, and so the policy, is about."""
    for expert in _listed(model) if model.is_router else ():
        called = repository.models.get(str(expert.get("model")))
        names = expert.get("files") or []
        if called is None or called.version is None or not names:
            continue
        path = called.version / str(names[0])
        if path.is_file() and _digest(path) != expert.get("digest"):
            name = path.relative_to(repository.folder)
            yield f"{name} is not the file that manifest.json names"


def _cores(model: Model, repository: Repository) -> Iterator[str]:
    """All copies of the router core are one."""
    if not model.is_router:
        return
    ours = _core(model)
    for expert in _listed(model):
        other = repository.models.get(str(expert.get("model")))
        if other is not None and _core(other) not in ({}, ours):
            yield f"the router core beside {other.name!r} is another one"


def _listed(model: Model) -> list[Mapping[str, Any]]:
    experts = model.manifest().get("experts")
    return [one for one in experts if isinstance(one, dict)] if isinstance(experts, list) else []


def _tensors(ports: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Say type and dims of inputs or outputs by name."""
    from tritonclient.grpc import model_config_pb2

    kinds = model_config_pb2.DataType
    return {one.name: (kinds.Name(one.data_type), tuple(one.dims)) for one in ports}


def _fit(given: tuple[str, tuple[int, ...]], taken: tuple[str, tuple[int, ...]]) -> bool:
    """Say whether a tensor is what is expected; -1 stands for any length."""
    if given[0] != taken[0] or len(given[1]) != len(taken[1]):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(given[1], taken[1], strict=True))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _core(model: Model) -> dict[str, str]:
    """Say the digests of the router core beside a ``model.py``; empty: there is none."""
    folder = model.version / "cascade_router" if model.version is not None else None
    if folder is None or not folder.is_dir():
        return {}
    return {path.name: _digest(path) for path in sorted(folder.glob("*.py"))}


RULES = [
    Rule(
        name="ensemble-plain",
        level="error",
        why="Triton refuses it: an ensemble has no instances and no queue of its own",
        fix="say it in the config of the model that a step names",
        look=_plain,
    ),
    Rule(
        name="ensemble-steps",
        level="error",
        why="Triton refuses an ensemble whose tensors do not meet",
        fix="build the cascade anew; do not rename its models by hand",
        look=_steps,
    ),
    Rule(
        name="ensemble-batch",
        level="error",
        why="a request that is larger than a step takes fails there",
        fix="give all of them the same max_batch_size",
        look=_step_sizes,
    ),
    Rule(
        name="ensemble-queue",
        level="warning",
        why="before 26.02 a step that refuses for a full queue hangs the ensemble",
        fix="bound the queue behind the router (max_waiting_rows), or use timeouts",
        look=_bounded_steps,
    ),
    Rule(
        name="experts",
        level="error",
        why="Triton does not see what a router calls: every escalation would fail at run time",
        fix="build the cascade anew",
        look=_experts,
    ),
    Rule(
        name="expert-batch",
        level="error",
        why="a call that is larger than the expert takes fails, with all of its rows",
        fix="give all of them the same max_batch_size",
        look=_expert_sizes,
    ),
    Rule(
        name="rate-limiter",
        level="error",
        why="a router that holds a resource while it waits for an expert can wait for ever",
        fix="limit the experts, not the router",
        look=_limited,
    ),
    Rule(
        name="router-instances",
        level="warning",
        why="execute blocks its instance: while one batch is decided, others wait",
        fix="[router] instances = 2",
        look=_several,
    ),
    Rule(
        name="digests",
        level="error",
        why="thresholds hold for the experts they were calibrated on",
        fix="build, then record and calibrate anew",
        look=_files,
    ),
    Rule(
        name="one-core",
        level="warning",
        why="models of one cascade then run different versions of this project",
        fix="build the cascade anew",
        look=_cores,
    ),
]
