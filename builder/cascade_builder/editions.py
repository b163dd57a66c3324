"""Editions of a cascade on disk: a version of the router and the version of every expert it calls.

    imagenet/config.pbtxt            its step names the router's version in force
    imagenet_router/2/               in force: policy, manifest, golden rows, ``previous.json``
    imagenet_router/1/               the one before, kept for a rollback
    imagenet_router/1/retired/       folders of experts that only the one before calls
    imagenet_router/1/edition_configs/   what the configs of its models said
    imagenet_lite0/1/, 2/            versions of an expert

Triton loads every folder of a repository that it is told to, so what is not in force and not kept
must not lie there.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError, PolicyError
from cascade_router.manifest import read_manifest
from cascade_router.policy import NAME
from cascade_router.versions import version_in_force

from .artifacts import json_of, written

__all__ = [
    "PREVIOUS",
    "Edition",
    "discard",
    "next_version",
    "previous",
    "restore",
    "retire",
    "tidy",
    "write_previous",
]

PREVIOUS = "previous.json"
"""Beside a router's version: which version a rollback goes back to."""

_RETIRED = "retired"
_REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition:
    """One version of a router with all that it calls.

    Attributes:
        cascade: Its name.
        router: Version of the router.
        experts: Version of each expert, by its Triton model, in the order of the tiers.
        digests: ``sha256:...`` of each expert, by its Triton model.
        manifest: As it lies beside the router.
    """

    cascade: str
    router: int
    experts: Mapping[str, int]
    digests: Mapping[str, str]
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, root: Path, cascade: str, version: int) -> Edition:
        """Read an edition by the version of its router.

        Raises:
            BuildError: If there is none, or its manifest does not say which versions it calls.
        """
        folder = root / f"{cascade}_router" / str(version)
        try:
            manifest = read_manifest(folder)
            entries = manifest["experts"]
            experts = {str(one["model"]): one["version"] for one in entries}
            digests = {str(one["model"]): str(one["digest"]) for one in entries}
        except PolicyError as exc:
            message = f"{folder}: holds no built cascade {cascade!r}: {exc.message}"
            hint = "run `cascade-builder build`, and serve it"
            raise BuildError(message, hint=hint) from exc
        except (KeyError, TypeError) as exc:
            message = f"{folder}: manifest.json does not say which versions it calls"
            hint = "an earlier release built it: `cascade-builder build`, and start the server anew"
            raise BuildError(message, hint=hint) from exc
        # They are read from a file, and become names of folders that are removed one day.
        sound = all(_is_expert(cascade, model) for model in experts)
        if manifest.get("unfinished") or not sound or not all(map(_is_version, experts.values())):
            message = f"{folder}: manifest.json is unfinished or names what is no expert"
            raise BuildError(message, hint="run `cascade-builder build` again")
        return cls(
            cascade=cascade, router=version, experts=experts, digests=digests, manifest=manifest
        )

    @classmethod
    def in_force(cls, root: Path, cascade: str) -> Edition:
        """Read the edition that answers clients."""
        return cls.read(root, cascade, version_in_force(root, cascade))

    @property
    def router_model(self) -> str:
        """Name the router's Triton model."""
        return f"{self.cascade}_router"

    @property
    def models(self) -> dict[str, int]:
        """Say the version of every model, those first that others call."""
        return {**self.experts, self.router_model: self.router}

    def folder(self, root: Path) -> Path:
        """Say where the router's files are."""
        return root / self.router_model / str(self.router)


def previous(root: Path, edition: Edition) -> Edition | None:
    """Read the edition that is kept for a rollback; None: there is none that is whole."""
    version = json_of(edition.folder(root) / PREVIOUS).get("router")
    if not isinstance(version, int) or not _is_version(version) or version == edition.router:
        return None
    try:
        return Edition.read(root, edition.cascade, version)
    except BuildError:
        return None


def next_version(root: Path, router: str, model: str) -> int:
    """Say a version of a model that no edition uses."""
    places = [root / model, *(root / router).glob(f"*/{_RETIRED}/{model}")]
    return max((number for place in places for number in _versions(place)), default=0) + 1


def retire(root: Path, kept: Edition, in_force: Edition) -> None:
    """Take experts that only the kept edition calls out of Triton's sight; unload them before.

    Raises:
        BuildError: If the file system refuses.
    """
    for model in [name for name in kept.experts if name not in in_force.experts]:
        here, place = root / model, kept.folder(root) / _RETIRED / model
        if (here / str(kept.experts[model])).is_dir():
            shutil.rmtree(place, ignore_errors=True)
            with _refusals_told(root):
                place.parent.mkdir(exist_ok=True)
                here.rename(place)
        elif here.is_dir():  # of an edition that never came into force; what was retired stays
            _take_away(root, model, kept.folder(root))


def restore(root: Path, edition: Edition) -> None:
    """Put back what was retired with an edition.

    Raises:
        BuildError: If an expert's version is nowhere, or the file system refuses.
    """
    for model, version in edition.experts.items():
        retired, place = edition.folder(root) / _RETIRED / model, root / model / str(version)
        with _refusals_told(root):
            if retired.is_dir() and not (root / model).is_dir():
                retired.rename(root / model)
            elif (retired / str(version)).is_dir():
                if not place.is_dir():  # else a build since then laid the same there
                    (retired / str(version)).rename(place)
                shutil.rmtree(retired)
        if not place.is_dir():
            message = f"{root / model}: version {version}, which this edition calls, is gone"
            raise BuildError(message, hint="build what you want, and `cascade-builder deploy` it")


def tidy(root: Path, in_force: Edition) -> list[str]:
    """Remove editions that are neither in force nor kept, and what a killed deployment left.

    Returns:
        Folders that were removed, relative to the repository.
    """
    kept = previous(root, in_force)
    stay = [in_force] if kept is None else [in_force, kept]
    gone: list[str] = []
    for version in _versions(root / in_force.router_model):
        if version not in [one.router for one in stay]:
            gone += discard(root, in_force.cascade, version, stay)
    for model in in_force.experts:
        pinned = {one.experts.get(model) for one in stay}
        for version in _versions(root / model):
            if version not in pinned:
                gone.append(_remove(root, f"{model}/{version}"))
    return gone


def discard(root: Path, cascade: str, version: int, stay: Sequence[Edition]) -> list[str]:
    """Remove an edition and what only it calls.

    Args:
        root: The model repository.
        cascade: Its name.
        version: Of the router.
        stay: Editions whose files stay.
    """
    folder = root / f"{cascade}_router" / str(version)
    entries = json_of(folder / "manifest.json").get("experts")
    gone = []
    for one in entries if isinstance(entries, list) else []:
        model, number = str(one.get("model")), one.get("version")
        if not (_is_expert(cascade, model) and _is_version(number)):
            continue
        users = [edition for edition in stay if model in edition.experts]
        pinned = [edition.experts[model] for edition in users]
        if number in pinned or not (root / model).is_dir():
            continue
        # Of some the others are retired; Triton wants no model without a version.
        if not users or _versions(root / model) == [number]:
            gone.append(_take_away(root, model, folder))
        else:
            gone.append(_remove(root, f"{model}/{number}"))
    # Last: it says what belongs to it, so that an interrupted removal can be completed.
    return [*gone, _remove(root, f"{cascade}_router/{version}")]


def write_previous(folder: Path, version: int) -> None:
    """Say beside a router's version which version a rollback goes back to.

    Raises:
        BuildError: If the file system refuses.
    """
    written(folder / PREVIOUS, (json.dumps({"router": version}) + "\n").encode())


@contextlib.contextmanager
def _refusals_told(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        message = f"{root}: the repository cannot be written: {exc}"
        raise BuildError(message, hint="check free space and rights") from exc


def _remove(root: Path, name: str) -> str:
    shutil.rmtree(root / name, ignore_errors=True)
    return name


def _take_away(root: Path, model: str, folder: Path) -> str:
    """Remove a whole model, by way of a router's folder: a server that starts sees it or does not.

    It would end at once at a model that is half there.
    """
    place = folder / _REMOVED
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):
        (root / model).rename(place)
    shutil.rmtree(place, ignore_errors=True)
    return _remove(root, model)


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    found = [one.name for one in folder.iterdir() if one.is_dir()]
    return sorted(int(name) for name in found if name.isdecimal() and name.isascii())


def _is_expert(cascade: str, model: str) -> bool:
    own = {f"{cascade}_{part}" for part in ("router", "control", "preprocess")}
    return (
        NAME.fullmatch(model) is not None and model.startswith(f"{cascade}_") and model not in own
    )


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
