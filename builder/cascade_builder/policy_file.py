"""A new ``policy.json`` into a repository that may be serving.

A running router looks at the file's identity several times a second, so it must appear whole, on
disk before it is seen, and only for the experts that the repository holds.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError, CalibrationError, PolicyError
from cascade_router.manifest import read_manifest
from cascade_router.policy import Policy
from cascade_router.versions import folder_in_force

from .records import Records
from .spec import Spec

__all__ = ["Placed", "check_fits", "place", "put", "router_folder", "switched_to"]

_WHEN = "made_at"
"""Key of the provenance that alone changes from run to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What became of a policy.

    Attributes:
        action: ``written``, ``replaced`` or ``kept``.
        lost_points: Points of the policy before that the new one does not have.
    """

    action: str
    lost_points: tuple[str, ...] = ()


def router_folder(spec: Spec, repository: Path) -> Path:
    """Say where the files of the router's version in force are."""
    return folder_in_force(repository, spec.name)


def check_fits(records: Records, spec: Spec, repository: Path) -> None:
    """Refuse records of other experts than the repository holds, or of another task.

    Raises:
        CalibrationError: Names what differs, the first tier of them.
    """
    record_again = f"run `cascade-builder record {spec.name}` again"
    for key, ours, theirs in (
        ("cascade", spec.name, records.cascade),
        ("activation", spec.activation, records.activation),
        ("classes", spec.classes, records.n_classes),
        ("label_tolerance", spec.label_tolerance, records.label_tolerance),
    ):
        if ours != theirs:
            message = f"records: {key} is {theirs!r}, the spec says {ours!r}"
            raise CalibrationError(message, hint=record_again)
    built, served_input = _built(spec, repository)
    if records.input is not None and records.input != served_input:
        message = f"records: rows were made by {records.input}, the repository says {served_input}"
        raise CalibrationError(message, hint=record_again)
    recorded = [tier.name for tier in records.tiers]
    if recorded != list(built):
        message = f"records: tiers are {', '.join(recorded)}, expected {', '.join(built)}"
        raise CalibrationError(message, hint=record_again)
    for tier in records.tiers:
        if tier.digest != built[tier.name]:
            message = (
                f"records: tier {tier.name!r} was recorded as {tier.digest[:19]}, "
                f"the repository holds {built[tier.name][:19]}"
            )
            raise CalibrationError(message, hint=record_again)


def place(policy: Policy, folder: Path, *, dry_run: bool = False) -> Placed:
    """Put a policy in force; the one before stays beside it as ``policy.json.old``.

    Args:
        policy: To be served.
        folder: The router's version folder.
        dry_run: Only say what would be done.

    Raises:
        BuildError: If a file cannot be written; the policy before is then in force.
    """
    path = folder / "policy.json"
    old = _bytes_of(path)
    if old is None:
        if not dry_run:
            put(path, policy.to_json().encode())
        return Placed(action="written")
    before = _policy_of(old)
    if before is not None and _timeless(before) == _timeless(policy):
        return Placed(action="kept")
    if not dry_run:
        # What was laid aside before is given up only once there is room for the new policy.
        with _drafted(path, policy.to_json().encode()) as draft:
            put(folder / "policy.json.old", old)
            draft.replace(path)
    names = before.point_names if before is not None else []
    lost = tuple(name for name in names if name not in policy.point_names)
    return Placed(action="replaced", lost_points=lost)


def switched_to(folder: Path) -> str | None:
    """Name the default point that an operator of the server has switched to; None: none."""
    try:
        point = json.loads((folder / "switch.json").read_bytes())["default"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return point if isinstance(point, str) else None


def put(path: Path, data: bytes) -> None:
    """Replace a file in one step, safely on disk before it is seen.

    Raises:
        BuildError: If the file system refuses.
    """
    with _drafted(path, data) as draft:
        draft.replace(path)


@contextmanager
def _drafted(path: Path, data: bytes) -> Iterator[Path]:
    """Write what a file is to be beside it; removed in the end, if it has not taken its place.

    Raises:
        BuildError: If the file system refuses that, or what is done with it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        draft = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp shows a file to its owner only; the server may run as somebody else.
            draft.chmod(0o644)
            yield draft
        finally:
            draft.unlink(missing_ok=True)
    except OSError as exc:
        message = f"{path}: cannot be written: {exc.strerror or exc}"
        raise BuildError(message, hint="check free space and rights") from exc


def _built(spec: Spec, repository: Path) -> tuple[dict[str, str], Any]:
    """Read name and digest of the experts that the repository holds, and what makes their rows."""
    hint = f"run `cascade-builder build {spec.name} --repository {repository}`"
    try:
        manifest: Any = read_manifest(router_folder(spec, repository))
    except PolicyError as exc:
        message = f"{repository}: holds no built cascade {spec.name!r}: {exc.message}"
        raise CalibrationError(message, hint=hint) from exc
    try:
        experts = {str(one["name"]): str(one["digest"]) for one in manifest["experts"]}
    except (KeyError, TypeError) as exc:
        message = f"manifest.json: does not say which experts there are ({exc})"
        raise CalibrationError(message, hint=hint) from exc
    return experts, manifest.get("input")


def _policy_of(text: bytes) -> Policy | None:
    """Read the policy before, if it is one."""
    try:
        return Policy.from_json(text.decode("utf-8", errors="replace"))
    except PolicyError:
        return None


def _timeless(policy: Policy) -> str:
    left = {key: value for key, value in policy.provenance.items() if key != _WHEN}
    return replace(policy, provenance=left).to_json()


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        message = f"{path}: cannot be read: {exc.strerror or exc}"
        raise BuildError(message, hint="check the rights of the repository") from exc
