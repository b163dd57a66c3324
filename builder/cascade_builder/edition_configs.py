"""What the configs of an edition's models say, kept as ``edition_configs/`` beside its router.

All versions of a model share one ``config.pbtxt``, so an edition that is not in force could not say
how many instances or how long a queue it wants. Of one in force they are kept only until they are
applied; then the models' own configs say it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from .artifacts import written
from .editions import Edition

__all__ = ["applied", "keep", "kept", "said"]

_FOLDER = "edition_configs"


def said(root: Path, edition: Edition) -> dict[str, bytes]:
    """Read what the configs say now, by model; the ensemble's is first."""
    return {name: (root / name / "config.pbtxt").read_bytes() for name in _models(edition)}


def keep(root: Path, edition: Edition, configs: Mapping[str, bytes]) -> None:
    """Keep configs of an edition's models.

    Raises:
        BuildError: If the file system refuses.
    """
    for name in _models(edition):
        written(_path(root, edition, name), configs[name])


def kept(root: Path, edition: Edition) -> dict[str, bytes]:
    """Read what was kept, by model; a model whose config was not is left out."""
    paths = {name: _path(root, edition, name) for name in _models(edition)}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def applied(root: Path, edition: Edition) -> None:
    """Forget what was kept: the models' configs say it, or cannot."""
    shutil.rmtree(edition.folder(root) / _FOLDER, ignore_errors=True)


def _models(edition: Edition) -> list[str]:
    return [edition.cascade, *edition.models]


def _path(root: Path, edition: Edition, model: str) -> Path:
    return edition.folder(root) / _FOLDER / f"{model}.pbtxt"
