"""Built experts on disk, found by what they were built from.

    build/<cascade>/state.json                   what the last keys were computed from
    build/<cascade>/graphs/<expert>-<key>/       model.onnx, built.json
    build/<cascade>/experts/<expert>-<key>/      what the target serves, built.json

A key is a digest over everything that decides what is built: the expert's source as the spec names
it, the code and the packages that make it, every file it depends on, the canonical input; and, for
what a target serves, precision, options, converter, its packages and the GPU. So switching a target
exports nothing again, and going back to what was built once builds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError

from .digests import stamp
from .manifest import Built, file_digest
from .sources.served import ServedModel
from .spec import Expert

__all__ = [
    "Task",
    "built_from",
    "dump",
    "found",
    "json_of",
    "key_of",
    "new",
    "record",
    "whole",
    "written",
]

_KEY_DIGITS = 12
_NOTE = "built.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done for one expert.

    Attributes:
        expert: As the spec names it.
        key: Identifies everything it is built from.
        folder: Where it is or will be.
        reason: Why it is built or kept.
        note: What ``record`` wrote about it; None: it must be built.
        built: It is there; None: it must be built.
        graph: Where its ONNX graph is or will be; None: its source gives none.
        weights: ``name`` and ``digest`` of the files it is made from.
        weights_bytes: Their size in all.
        toolchain: Versions and digests of what makes it.
        served: The model that Triton serves already; None: it is made.
    """

    expert: Expert
    key: str
    folder: Path
    reason: str
    note: Mapping[str, Any] | None = None
    built: Built | None = None
    graph: Path | None = None
    weights: Sequence[Mapping[str, str]] = ()
    weights_bytes: int = 0
    toolchain: Mapping[str, str] = field(default_factory=dict)
    served: ServedModel | None = None


def key_of(contents: Mapping[str, Any]) -> str:
    """Say the key of what something is built from."""
    return hashlib.sha256(dump(contents)).hexdigest()[:_KEY_DIGITS]


@contextlib.contextmanager
def new(folder: Path) -> Iterator[Path]:
    """Give a folder to build in, which becomes ``folder`` when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield draft
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def record(folder: Path, files: Sequence[str], figures: Mapping[str, Any]) -> None:
    """Write down, beside freshly built files, what they are.

    Args:
        folder: Holds them.
        files: Their names; the first is the one that is served.
        figures: What was verified.
    """
    said = {name: {**stamp(folder / name), "digest": file_digest(folder / name)} for name in files}
    order = {"files": said, "order": list(files), "figures": dict(figures)}
    (folder / _NOTE).write_bytes(dump(order))


def whole(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Read what ``record`` wrote; None, with why, if it is not there or a file is not as it was."""
    if not folder.is_dir():
        return None, "not built yet"
    values = json_of(folder / _NOTE)
    files, order = values.get("files"), values.get("order")
    if not (isinstance(files, dict) and isinstance(order, list) and set(order) == set(files)):
        return None, "its files are incomplete"
    for name, said in files.items():
        path = folder / name
        if not path.is_file():
            return None, "its files are incomplete"
        # A copied build folder has other times, so only a changed content counts as damage.
        touched = any(said.get(key) != value for key, value in stamp(path).items())
        if touched and file_digest(path) != said.get("digest"):
            return None, "its file is damaged"
    return values, "nothing changed"


def found(task: Task) -> Built:
    """Find an expert that has just been built.

    Raises:
        BuildError: If it is not there.
    """
    values, reason = whole(task.folder)
    if values is None:
        message = f"expert {task.expert.name!r}: {reason} in {task.folder}"
        raise BuildError(message, hint="build again")
    return built_from(task, values)


def built_from(task: Task, note: Mapping[str, Any]) -> Built:
    """Describe a built expert by what ``record`` wrote."""
    order, files = note["order"], note["files"]
    return Built(
        expert=task.expert,
        files={name: task.folder / name for name in order},
        digest=files[order[0]]["digest"] if task.served is None else task.served.digest,
        weights=task.weights,
        toolchain=task.toolchain,
        figures=note["figures"],
        served=task.served,
    )


def written(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BuildError: If the file system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)  # mkstemp keeps the file from others
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as exc:
        message = f"{path}: cannot be written: {exc}"
        raise BuildError(message, hint="check free space and rights") from exc


def json_of(path: Path) -> dict[str, Any]:
    """Read a file of ours; empty where it is missing or broken: it is only a shortcut."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def dump(values: object) -> bytes:
    """Write JSON; equal values give equal bytes."""
    return (json.dumps(values, indent=2, sort_keys=True, default=str) + "\n").encode()
