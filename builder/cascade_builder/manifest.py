"""``manifest.json``: what a repository holds and what it was built from.

Nothing measured in time stands in it, and no folder of this machine: equal inputs give equal text.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .runtime import OUTPUT
from .spec import Expert, Spec
from .triton_config import router_options
from .versions import Versions

if TYPE_CHECKING:
    from .sources.served import ServedModel

__all__ = ["SCHEMA", "Built", "file_digest", "manifest", "manifest_json", "said_of"]

SCHEMA = 3
"""Schema number written; 1 knew ONNX files made by factories alone, 2 no versions."""

_DISTRIBUTION = "triton-cascade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An expert that is ready to be laid out.

    Attributes:
        expert: As the spec names it.
        files: Where its files lie now, by their name in the version folder; the first is the one
            that the target serves. Empty for a served model, and in a dry run.
        digest: ``sha256:...`` of what is served: of the first file, or of the served model.
        weights: ``name`` and ``digest`` of each file it was made from.
        toolchain: Versions and digests of what made it.
        figures: What was verified.
        served: The model that Triton serves already; None: the files are served.
    """

    expert: Expert
    files: Mapping[str, Path]
    digest: str
    weights: Sequence[Mapping[str, str]] = ()
    toolchain: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    served: ServedModel | None = None


def file_digest(path: Path) -> str:
    """Say ``sha256:...`` of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def said_of(expert: Expert) -> dict[str, Any]:
    """Say what the spec says an expert is: its source and its precision."""
    return {"source": expert.source.said(), "precision": expert.precision}


def manifest(
    spec: Spec,
    target: str,
    built: Sequence[Built],
    *,
    models: Sequence[str],
    core_digest: str,
    versions: Versions | None = None,
) -> dict[str, Any]:
    """Describe a repository.

    Args:
        spec: The cascade.
        target: What runs the experts.
        built: The experts, in the order of the tiers.
        models: Folders written.
        core_digest: ``sha256:...`` of the router core that was copied in.
        versions: Which version of each expert the router calls; None: the first.
    """
    versions = versions or Versions()
    return {
        "schema": SCHEMA,
        "cascade": spec.name,
        "target": target,
        "spec_digest": spec.digest,
        "core_digest": core_digest,
        "models": list(models),
        "input": spec.input.described,
        "router": router_options(spec, target),
        "experts": [_expert(spec, one, versions.of(one.expert.name)) for one in built],
        "versions": {_DISTRIBUTION: importlib.metadata.version(_DISTRIBUTION)},
    }


def manifest_json(values: Mapping[str, Any]) -> str:
    """Write it."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _expert(spec: Spec, built: Built, version: int) -> dict[str, Any]:
    return {
        "name": built.expert.name,
        "model": spec.model(built.expert.name),
        "version": version,
        "digest": built.digest,
        **said_of(built.expert),
        "weights": [dict(one) for one in built.weights],
        "files": list(built.files),
        "toolchain": dict(built.toolchain),
        "verified": dict(built.figures),
        "output": OUTPUT,
    }
