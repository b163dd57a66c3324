"""The experts that a repository serves: what records and promises are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError
from cascade_router.manifest import read_manifest
from cascade_router.versions import FIRST, folder_in_force

from . import targets
from .manifest import file_digest, said_of
from .sources import ServedSource
from .sources.served import ServedModel, look
from .spec import Expert, Spec

__all__ = ["Served", "open_expert", "served_experts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One expert of a repository.

    Attributes:
        expert: As the spec names it.
        model: The Triton model that runs it.
        target: What runs it.
        files: Its files in the repository by their name in the version folder; none for a model
            that was served already.
        digest: ``sha256:...`` of what is served.
        beneath: The model that was served already; None: the files are served.
    """

    expert: Expert
    model: str
    target: str
    files: Mapping[str, Path]
    digest: str
    beneath: ServedModel | None = None


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
    folder = folder_in_force(repository, spec.name)
    if not folder.is_dir():
        _refuse(spec, repository, f"{repository} holds no cascade {spec.name!r}")
    manifest = read_manifest(folder)
    if manifest.get("unfinished"):
        _refuse(spec, repository, "a build of it was interrupted")
    target = str(manifest.get("target"))
    if target not in targets.TARGETS[1:]:
        _refuse(spec, repository, f"it was built for target {target!r}")
    if manifest.get("input") != spec.input.described:
        _refuse(spec, repository, "the spec's input has changed since it was built")
    built = {str(one.get("name")): one for one in manifest.get("experts", [])}
    names = [expert.name for expert in spec.experts]
    if list(built) != names:
        _refuse(spec, repository, f"holds experts {', '.join(built)}, spec: {', '.join(names)}")
    return [
        _served(spec, repository, expert, target, built[expert.name]) for expert in spec.experts
    ]


def open_expert(
    served: Served, spec: Spec
) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """Open an expert as it is served.

    Returns:
        (n, ...) canonical rows to (n, C) float32 logits.

    Raises:
        BuildError: If it cannot run here, or a file is broken.
    """
    where, source = f"expert {served.expert.name!r}", served.expert.source
    if served.beneath is not None and isinstance(source, ServedSource):
        from .sources.remote import remote_runner, why_not

        why = why_not(served.beneath, source.server)
        if why is not None:
            message = f"{where}: {why}"
            raise BuildError(message, hint="start it, or set `server` to where it is served")
        return remote_runner(served.beneath, source.server, spec.input.dtype)
    run = targets.runner(served.files, served.expert, served.target)
    if run is None:
        message = f"{where}: cannot run here: {targets.why_not(served.target)}"
        raise BuildError(message, hint="run this command on the machine that serves it")
    return run


def _served(
    spec: Spec, repository: Path, expert: Expert, target: str, built: dict[str, Any]
) -> Served:
    if any(built.get(key) != value for key, value in said_of(expert).items()):
        _refuse(spec, repository, f"the spec of expert {expert.name!r} has changed since then")
    model = spec.model(expert.name)
    folder = repository / model / str(built.get("version", FIRST))
    files = {str(name): folder / str(name) for name in built.get("files", [])}
    beneath = None
    try:
        if isinstance(expert.source, ServedSource):
            where = f"expert {expert.name!r}"
            beneath = look(expert.source, spec, repository, where, file_digest)
            what, digest = f"served model {beneath.name!r}", beneath.digest
        else:
            path = next(iter(files.values()), folder)
            what, digest = str(path), file_digest(path)
    except OSError as exc:
        message = f"repository: {model} cannot be read: {exc}"
        raise BuildError(message, hint=_hint(spec, repository)) from exc
    if digest != built.get("digest"):
        wanted = str(built.get("digest"))[:19]
        _refuse(spec, repository, f"{what} is {digest[:19]}, the manifest says {wanted}")
    return Served(
        expert=expert, model=model, target=target, files=files, digest=digest, beneath=beneath
    )


def _refuse(spec: Spec, repository: Path, message: str) -> NoReturn:
    text = f"repository: {message}"
    raise BuildError(text, hint=_hint(spec, repository))


def _hint(spec: Spec, repository: Path) -> str:
    return f"run `cascade-builder build` for {spec.name!r} with --repository {repository}"
