"""Built experts on disk, found by what they were built from.

    build/<cascade>/<expert>.json            what its last key was computed from
    build/<cascade>/<expert>-<key>/          model.onnx, built.json

A key covers the factory's module, its arguments, the files it says it depends on, the exporter,
the tools and the canonical input. A factory's module may define ``weights(**arguments)``, called
with the factory's arguments: the paths of every other file that the expert depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError, CascadeError

from .manifest import Built, file_digest, tool_versions
from .spec import Expert, Spec

__all__ = ["Artifacts", "Plan", "json_of", "record", "written"]

_EXPORTER = Path(__file__).with_name("export.py")
_KEY_DIGITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done for one expert.

    Attributes:
        expert: As the spec names it.
        key: Identifies everything it is built from.
        folder: Where it is or will be.
        built: It is there; None: it must be built.
        reason: Why.
    """

    expert: Expert
    key: str
    folder: Path
    built: Built | None
    reason: str


class Artifacts:
    """The built experts of one cascade.

    Args:
        folder: Holds those of all cascades.
        spec: The cascade.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder = folder / spec.name
        self._spec = spec

    def plan(self, expert: Expert, *, remember: bool = True) -> Plan:
        """Say whether an expert must be built, and why. Runs none of its code if it is unchanged.

        Args:
            expert: One of the spec's.
            remember: Write down what the key was computed from, so that the next plan is quick.

        Raises:
            SpecError: If the factory's module is missing.
            BuildError: If its ``weights`` fails or names a file that cannot be read.
        """
        stamp = self.folder / f"{expert.name}.json"
        old = json_of(stamp)
        parts = self._parts(expert)
        weights = old.get("weights")
        if old.get("parts") != parts or not _untouched(weights):
            weights = _weights(expert)
        contents = {**parts, "weights": [one["digest"] for one in weights or []]}
        key = hashlib.sha256(_dump(contents)).hexdigest()[:_KEY_DIGITS]
        if remember and old != (new := {"parts": parts, "weights": weights}):
            written(stamp, _dump(new))
        folder = self.folder / f"{expert.name}-{key}"
        built, reason = _found(folder, expert)
        if built is None and reason == "not built yet":
            reason = _difference(old, contents)
        return Plan(expert=expert, key=key, folder=folder, built=built, reason=reason)

    @contextlib.contextmanager
    def new(self, plan: Plan) -> Iterator[Path]:
        """Give a folder to build in, which takes its place when the block ends well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{plan.expert.name}-", dir=self.folder))
        try:
            yield folder
            if plan.folder.exists():
                shutil.rmtree(plan.folder)
            folder.rename(plan.folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def found(self, plan: Plan) -> Built:
        """Find an expert that has just been built."""
        built, reason = _found(plan.folder, plan.expert)
        if built is None:
            message = f"expert {plan.expert.name!r}: {reason} in {plan.folder}"
            raise BuildError(message, hint="build again")
        return built

    def _parts(self, expert: Expert) -> dict[str, Any]:
        """Say all that a key covers but the weights."""
        return {
            "factory": str(expert.factory),
            "source": file_digest(expert.factory.source()),
            "arguments": dict(expert.arguments),
            "input": [self._spec.input.name, self._spec.input.dtype, *self._spec.input.shape],
            "classes": self._spec.classes,
            "exporter": file_digest(_EXPORTER),
            "versions": tool_versions(),
        }


def written(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        BuildError: If the file system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)  # mkstemp keeps the file from others
        Path(temporary).replace(path)
    except OSError as exc:
        message = f"{path}: cannot be written: {exc}"
        raise BuildError(message, hint="check free space and rights") from exc


def record(folder: Path, parity: Mapping[str, Any]) -> None:
    """Write down, beside a freshly built ``model.onnx``, what it is."""
    model = folder / "model.onnx"
    values = {"digest": file_digest(model), **_stat(model), "parity": dict(parity)}
    (folder / "built.json").write_bytes(_dump(values))


def _found(folder: Path, expert: Expert) -> tuple[Built | None, str]:
    """Find a built expert; None with why if it is not there or not whole."""
    if not folder.is_dir():
        return None, "not built yet"
    values, model = json_of(folder / "built.json"), folder / "model.onnx"
    digest, parity = values.get("digest"), values.get("parity")
    if not model.is_file() or not isinstance(digest, str) or not isinstance(parity, dict):
        return None, "its files are incomplete"
    # A copied build folder has other times, so only a changed content counts as damage.
    touched = any(values.get(key) != value for key, value in _stat(model).items())
    if touched and file_digest(model) != digest:
        return None, "its file is damaged"
    return Built(expert=expert, path=model, digest=digest, parity=parity), "nothing changed"


def _weights(expert: Expert) -> list[dict[str, Any]]:
    """Ask the factory's module which files the expert depends on."""
    where = f"expert {expert.name!r}"
    try:
        paths = expert.factory.run_beside("weights", dict(expert.arguments)) or []
        return [
            {"path": str(path), **_stat(path), "digest": file_digest(path)}
            for path in map(Path, paths)
        ]
    except CascadeError:
        raise
    except OSError as exc:
        message = f"{where}: its weights cannot be read: {exc}"
        raise BuildError(message, hint="install the package that carries them") from exc
    except Exception as exc:  # any code may stand in the user's module
        message = f"{where}: {expert.factory.module} raised {type(exc).__name__}: {exc}"
        raise BuildError(
            message, hint="check `arguments`, and that its packages are there"
        ) from exc


def _untouched(weights: object) -> bool:
    """Say whether files are as they were, by size and time."""
    if not isinstance(weights, list):
        return False
    try:
        return all(
            {key: one[key] for key in ("bytes", "mtime_ns")} == _stat(Path(one["path"]))
            for one in weights
        )
    except (OSError, KeyError, TypeError):
        return False


def _difference(old: Mapping[str, Any], contents: Mapping[str, Any]) -> str:
    """Say what changed since the last key."""
    before = dict(old.get("parts") or {})
    if not before:
        return "not built yet"
    before["weights"] = [one.get("digest") for one in old.get("weights") or []]
    names = [name for name, value in contents.items() if before.get(name) != value]
    return f"{', '.join(names)} changed" if names else "not built yet"


def _stat(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def json_of(path: Path) -> dict[str, Any]:
    """Read a file of ours; empty where it is missing or broken: it is only a shortcut."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _dump(values: object) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True, default=str) + "\n").encode()
