"""The experts that a repository serves: what records and promises are about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cascade_router.errors import BuildError
from cascade_router.manifest import read_manifest

from .manifest import file_digest
from .spec import Expert, Spec

__all__ = ["Served", "served_experts"]

_TARGETS = ["embedded", "onnxruntime"]
"""Targets that serve the ONNX file itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One expert of a repository.

    Attributes:
        expert: As the spec names it.
        model: The Triton model that runs it.
        path: Its ONNX file in the repository.
        digest: ``sha256:...`` of that file.
    """

    expert: Expert
    model: str
    path: Path
    digest: str


def served_experts(spec: Spec, repository: Path) -> list[Served]:
    """Find the experts of a cascade in a repository and check that they are what was built.

    Args:
        spec: The cascade.
        repository: The model repository.

    Returns:
        K experts, in the order of the tiers.

    Raises:
        BuildError: If the cascade is not there, was built from another spec, or a file is not the
            one that was built.
        PolicyError: If its manifest cannot be read.
    """
    folder = repository / spec.model("router") / "1"
    if not folder.is_dir():
        _refuse(spec, repository, f"{repository} holds no cascade {spec.name!r}")
    manifest = read_manifest(folder)
    if manifest.get("target") not in _TARGETS:
        target = manifest.get("target")
        _refuse(spec, repository, f"it was built for target {target!r}, expected ONNX files")
    form = {
        "kind": spec.input.kind,
        "name": spec.input.name,
        "dtype": spec.input.dtype,
        "shape": list(spec.input.shape),
    }
    if manifest.get("input") != form:
        _refuse(spec, repository, "the spec's input has changed since it was built")
    built = {str(one.get("name")): one for one in manifest.get("experts", [])}
    names = [expert.name for expert in spec.experts]
    if list(built) != names:
        _refuse(spec, repository, f"holds experts {', '.join(built)}, spec: {', '.join(names)}")
    return [_served(spec, repository, expert, built[expert.name]) for expert in spec.experts]


def _served(spec: Spec, repository: Path, expert: Expert, built: dict[str, Any]) -> Served:
    made = {"factory": str(expert.factory), "arguments": dict(expert.arguments)}
    if any(built.get(key) != value for key, value in made.items()):
        _refuse(spec, repository, f"the spec of expert {expert.name!r} has changed since then")
    model = spec.model(expert.name)
    path = repository / model / "1" / "model.onnx"
    try:
        digest = file_digest(path)
    except OSError as exc:
        message = f"{path}: cannot be read: {exc}"
        raise BuildError(message, hint=_hint(spec, repository)) from exc
    if digest != built.get("digest"):
        wanted = str(built.get("digest"))[:19]
        _refuse(spec, repository, f"{path} is {digest[:19]}, the manifest says {wanted}")
    return Served(expert=expert, model=model, path=path, digest=digest)


def _refuse(spec: Spec, repository: Path, message: str) -> NoReturn:
    text = f"repository: {message}"
    raise BuildError(text, hint=_hint(spec, repository))


def _hint(spec: Spec, repository: Path) -> str:
    return f"run `cascade-builder build` for {spec.name!r} with --repository {repository}"
