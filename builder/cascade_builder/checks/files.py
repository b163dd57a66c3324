"""Rules about folders and files: what a backend looks for is there."""

from __future__ import annotations

from collections.abc import Iterator

from cascade_router.errors import CascadeError
from cascade_router.manifest import check_policy, read_manifest
from cascade_router.policy import Policy

from .models import Model
from .rule import ERROR, rule

__all__ = ["RULES", "readable"]

_FILES = {"python": "model.py", "onnxruntime": "model.onnx"}
_GUESSED = ("model.py", "model.onnx", "model.plan", "model.pt", "model.savedmodel", "model.xml")
"""Files by which Triton tells a backend that no config names."""

_BESIDE = {
    "backend": ("policy.json", "manifest.json"),
    "onnx_expert": ("model.onnx",),
    "tensorrt_expert": ("model.plan",),
    "text_model": ("tokenizer.json",),
    "torch_expert": ("model.pt2",),
}
"""What a module of the router core reads beside its ``model.py``."""


@rule(
    "readable",
    ERROR,
    why="Triton takes every folder for a model; one that it cannot load ends its start",
    fix="correct config.pbtxt, build the repository anew, or move the folder elsewhere",
)
def readable(model: Model) -> Iterator[str]:
    """The config can be read, or a file tells what is in it."""
    if model.problem is not None and not ("no config" in model.problem and _guessed(model)):
        yield model.problem


@rule(
    "name",
    ERROR,
    why="Triton refuses a model whose config names another",
    fix="name it as its folder, or leave `name` out",
)
def _name(model: Model) -> Iterator[str]:
    if model.config.name not in ("", model.name):
        yield f"the config is of {model.config.name!r}"


@rule(
    "version-folder",
    ERROR,
    why="Triton serves numbered folders only, of ensembles too",
    fix="make the folder `1`",
)
def _version_folder(model: Model) -> Iterator[str]:
    if model.version is None:
        policy = model.config.version_policy
        versions = list(policy.specific.versions) if policy.HasField("specific") else []
        yield f"versions {versions} are not there" if versions else "there is no version folder"


@rule(
    "model-file",
    ERROR,
    why="the model reads it when it is loaded, from the version folder that is served",
    fix="run `cascade-builder build`: it writes what git does not keep",
)
def _model_file(model: Model) -> Iterator[str]:
    if model.version is None:
        return
    usual = _FILES.get(model.runs_on)
    wanted = [model.config.default_model_filename or usual] if usual else []
    core = model.core_module
    if core is not None:
        wanted += [f"cascade_router/{core}.py", *_BESIDE.get(core, ())]
    if model.expert_here is not None:
        wanted.append(f"experts/{model.expert_here}.onnx")
    for name in wanted:
        if model.file(str(name)) is None:
            yield f"{model.version.name}/{name} is missing"


@rule(
    "backend",
    ERROR,
    why="Triton does not know what runs it",
    fix='say backend: "python", "onnxruntime" or "tensorrt", or platform: "ensemble"',
)
def _backend(model: Model) -> Iterator[str]:
    if not model.runs_on and not _guessed(model):
        yield "neither 'backend' nor 'platform' is given, and no file tells it"


@rule(
    "policy",
    ERROR,
    why="the router does not start without a policy that was made for the experts beside it",
    fix="run `cascade-builder build`, then record and calibrate anew",
)
def _policy(model: Model) -> Iterator[str]:
    policy, manifest = model.file("policy.json"), model.file("manifest.json")
    if not model.is_router or policy is None or manifest is None:
        return
    try:
        check_policy(Policy.read(policy), read_manifest(manifest.parent))
    except CascadeError as exc:
        yield exc.message


def _guessed(model: Model) -> bool:
    return any(model.file(name) is not None for name in _GUESSED)


RULES = (readable, _name, _version_folder, _model_file, _backend, _policy)
