"""Which version of a cascade's router is in force.

Versions lie side by side in a model's folder, and Triton may have two of them loaded while one
takes over from the other. The one that answers clients is the one that the ensemble's step names,
so that one line of one file decides, in the server and on disk alike.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["FIRST", "folder_in_force", "version_in_force"]

FIRST = 1
"""The version of whatever was never replaced."""

_STEP = re.compile(r'model_name:\s*"([^"]+)"\s*model_version:\s*(\d+)')


def version_in_force(repository: Path, cascade: str) -> int:
    """Say which version of the router answers clients.

    Args:
        repository: The model repository.
        cascade: Name of the cascade.

    Returns:
        What the ensemble's ``config.pbtxt`` names; ``FIRST`` where it names none, or is not there.
    """
    try:
        text = (repository / cascade / "config.pbtxt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return FIRST
    named = {model: int(version) for model, version in _STEP.findall(text)}
    return named.get(f"{cascade}_router", FIRST)


def folder_in_force(repository: Path, cascade: str) -> Path:
    """Say where the files of that version lie: policy, manifest, labels."""
    return repository / f"{cascade}_router" / str(version_in_force(repository, cascade))
