"""Which built experts stay on disk: those that one of the last four different builds used.

So going back to what was built a moment ago, or switching between a few targets, builds nothing,
and a folder that is built in for months does not grow for ever.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .artifacts import Task, dump, json_of, written

__all__ = ["KEPT_BUILDS", "prune", "tidy"]

KEPT_BUILDS = 4

_KINDS = ["graphs", "experts"]


def prune(folder: Path, tasks: Sequence[Task]) -> list[str]:
    """Remove what none of the last builds used.

    Args:
        folder: Keeps the built experts of one cascade.
        tasks: What this build uses.

    Returns:
        Names of folders that were removed.
    """
    path = folder / "uses.json"
    now = sorted(
        str(used.relative_to(folder))
        for task in tasks
        for used in (task.folder, task.graph)
        if used is not None
    )
    builds = json_of(path).get("builds")
    before = [one for one in builds if one != now] if isinstance(builds, list) else []
    kept = [*before, now][-KEPT_BUILDS:]
    if builds != kept:
        written(path, dump({"builds": kept}))
    used = {name for names in kept for name in names}
    removed = []
    for kind in _KINDS:
        for one in _entries(folder / kind):
            name = f"{kind}/{one.name}"
            if one.is_dir() and name not in used:  # files there are timings of kernels
                shutil.rmtree(one, ignore_errors=True)
                removed.append(name)
    return removed


def tidy(folder: Path) -> None:
    """Remove drafts of builds that were killed. Call it while no other build uses the folder."""
    for place in (folder, *(folder / kind for kind in _KINDS)):
        for one in _entries(place):
            if one.name.startswith(".") and one.is_dir():
                shutil.rmtree(one, ignore_errors=True)
            elif one.name.startswith("."):
                one.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
