"""``manifest.json``: what a repository holds and what it was built from.

Nothing measured in time stands in it: equal inputs give equal text.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError

from .runtime import OUTPUT
from .spec import Expert, Spec

__all__ = ["SCHEMA", "Built", "file_digest", "manifest", "manifest_json", "tool_versions"]

SCHEMA = 1
"""Schema number written."""

_TOOLS = ["torch", "onnx", "onnxscript", "onnxruntime", "numpy"]
_DISTRIBUTION = "triton-cascade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """An expert that is ready to be laid out.

    Attributes:
        expert: As the spec names it.
        path: Its ONNX file.
        digest: ``sha256:...`` of that file.
        parity: Figures of ``parity.Parity.as_json``.
    """

    expert: Expert
    path: Path
    digest: str
    parity: Mapping[str, Any]


def tool_versions() -> dict[str, str]:
    """Say the versions of what builds experts, without importing it.

    Raises:
        BuildError: If a tool is missing.
    """
    try:
        return {name: importlib.metadata.version(name) for name in _TOOLS}
    except importlib.metadata.PackageNotFoundError as exc:
        message = f"build: the package {exc.name!r} is not installed"
        raise BuildError(message, hint="pip install 'triton-cascade[build]'") from exc


def file_digest(path: Path) -> str:
    """Say ``sha256:...`` of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def manifest(
    spec: Spec, target: str, built: Sequence[Built], *, models: Sequence[str], core_digest: str
) -> dict[str, Any]:
    """Describe a repository.

    Args:
        spec: The cascade.
        target: What runs the experts.
        built: The experts, in the order of the tiers.
        models: Folders written.
        core_digest: ``sha256:...`` of the router core that was copied in.
    """
    return {
        "schema": SCHEMA,
        "cascade": spec.name,
        "target": target,
        "spec_digest": spec.digest,
        "core_digest": core_digest,
        "models": list(models),
        "input": {
            "kind": spec.input.kind,
            "name": spec.input.name,
            "dtype": spec.input.dtype,
            "shape": list(spec.input.shape),
        },
        "experts": [_expert(spec, one) for one in built],
        "versions": {_DISTRIBUTION: importlib.metadata.version(_DISTRIBUTION), **tool_versions()},
    }


def manifest_json(values: Mapping[str, Any]) -> str:
    """Write it."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _expert(spec: Spec, built: Built) -> dict[str, Any]:
    return {
        "name": built.expert.name,
        "model": spec.model(built.expert.name),
        "digest": built.digest,
        "factory": str(built.expert.factory),
        "arguments": dict(built.expert.arguments),
        "output": OUTPUT,
        "parity": dict(built.parity),
    }
