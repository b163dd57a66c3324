"""What Hugging Face's hub has left on this machine. Nothing is fetched: no network is needed."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError

__all__ = ["cached", "cached_folder", "with_torchvision"]

_kept: list[object] = []
"""Declarations of operators last as long as the object that made them."""


def cached(repository: str, names: Sequence[str]) -> Path | None:
    """Find the first of some files of a hub repository in the cache; None: none is there."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None


def cached_folder(repository: str) -> Path | None:
    """Find the snapshot of a hub repository in the cache; None: it is not there."""
    found = cached(repository, ["config.json"])
    return None if found is None else found.parent


def with_torchvision(package: str) -> Any:
    """Import a package that imports torchvision, now or later, whichever torch that was built for.

    torchvision's wheels on PyPI are built for CUDA. Beside a torch for the CPU their operators do
    not load, and from 0.20 to at least 0.28 the import then fails, because it describes two of
    them. No classifier calls them, so they are declared here without a body.

    Raises:
        BuildError: If it cannot be imported.
    """
    try:
        if importlib.util.find_spec("torchvision") is not None:
            _import_torchvision()
        return importlib.import_module(package)
    except Exception as exc:  # an import runs any code
        message = f"build: {package} cannot be imported: {type(exc).__name__}: {exc}"
        hint = "its extra brings it; a torchvision beside it must be made for your torch"
        raise BuildError(message, hint=hint) from exc


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as exc:
        if "torchvision::nms" not in str(exc):
            raise
        for name in [one for one in sys.modules if one.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # imported halfway
        _declare()
        importlib.import_module("torchvision")


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _kept.append(library)
