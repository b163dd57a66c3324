"""What the repository should hold, how that differs from what it holds, and making it so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cascade_router.errors import BuildError
from cascade_router.policy import NAME
from cascade_router.versions import folder_in_force

from . import first_policy, layout, repository, targets
from .artifacts import Task, json_of
from .build_report import ModelReport
from .golden import FILE
from .manifest import SCHEMA, Built, manifest, manifest_json
from .repository_files import changed
from .spec import Spec
from .versions import Versions

__all__ = ["LaidOut", "chosen_policy", "models_of"]

_UNBUILT = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LaidOut:
    """A cascade's part of a repository as it should be.

    Attributes:
        spec: The cascade.
        root: The model repository.
        write: Folders that differ from what lies there.
        remove: Names of folders that an earlier build wrote and this one does not.
        reports: A report per folder.
        policy: Which policy the repository gets.
        models: All folders as they should be, in the order of ``layout.model_names``.
        versions: Which version each is.
    """

    spec: Spec
    root: Path
    write: tuple[layout.Model, ...]
    remove: tuple[str, ...]
    reports: tuple[ModelReport, ...]
    policy: first_policy.Choice
    models: tuple[layout.Model, ...]
    versions: Versions

    @classmethod
    def of(
        cls,
        spec: Spec,
        target: str,
        built: Sequence[Built],
        root: Path,
        names: list[str] | None,
        golden: Path,
        choice: first_policy.Choice | None = None,
    ) -> LaidOut:
        """Lay a cascade out and compare.

        Args:
            spec: The cascade.
            target: What runs the experts.
            built: The experts, in the order of the tiers.
            root: The model repository.
            names: Of the classes; None: there are none.
            golden: The golden rows.
            choice: The policy it gets; None: the one in force, or the spec's points.

        Raises:
            BuildError: If the repository cannot be read.
        """
        versions = Versions.in_force(root, spec.name)
        try:
            choice = choice or chosen_policy(spec, built, root)
            models = models_of(spec, target, built, choice, names, golden, versions)
            reasons = {model.name: changed(root, model) for model in models}
        except OSError as exc:
            message = f"{root}: the repository cannot be read: {exc}"
            raise BuildError(message, hint="check its rights") from exc
        remove = tuple(_left_over(spec, root))
        return cls(
            spec=spec,
            root=root,
            write=tuple(model for model in models if reasons[model.name] is not None),
            remove=remove,
            reports=tuple(_reports(reasons, remove)),
            policy=choice,
            models=tuple(models),
            versions=versions,
        )

    @staticmethod
    def unbuilt(task: Task, target: str) -> Built:
        """Stand in, in a dry run, for an expert that would be built."""
        if task.served is not None:
            return Built(
                expert=task.expert, files={}, digest=task.served.digest, served=task.served
            )
        name = targets.main_file(target)
        return Built(expert=task.expert, files={name: task.folder / name}, digest=_UNBUILT)

    @staticmethod
    def is_unbuilt(built: Built) -> bool:
        """Say whether it is what ``unbuilt`` gives."""
        return built.digest == _UNBUILT

    @property
    def differs(self) -> bool:
        """Say whether the repository is not yet so."""
        return bool(self.write or self.remove)

    @property
    def points(self) -> tuple[str, ...]:
        """Name the operating points of the policy."""
        return tuple(point["name"] for point in json.loads(self.policy.text)["points"])

    def write_out(self) -> None:
        """Make the repository so, all of it or nothing.

        Raises:
            BuildError: If the file system refuses, or a model breaks a rule of ``checks``; the
                repository is untouched.
        """
        router = self.spec.model("router")
        guard = None
        if len(self.write) + len(self.remove) > 1 and router in {m.name for m in self.write}:
            guard = (f"{router}/{self.versions.router}/manifest.json", _unfinished(self.spec))
        change = repository.Change(
            owner=self.spec.name, write=self.write, remove=self.remove, guard=guard
        )
        repository.apply(self.root, change, self._look)

    def _look(self, staging: Path) -> None:
        """Refuse what Triton would not load; that the builder wrote such a thing is its fault."""
        from .checks import check_staged

        for one in check_staged(self.root, staging, self.remove):
            if one.level == "error":
                message = f"model {one.model}: would break the rule {one.rule!r}: {one.what}"
                hint = f"{one.fix}; or report it: the builder should not write this"
                raise BuildError(message, hint=hint)


def chosen_policy(spec: Spec, built: Sequence[Built], root: Path) -> first_policy.Choice:
    """Keep the policy in force if it holds for these experts, else take the spec's points."""
    try:
        path = _router_file(spec, root, "policy.json")
        existing = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        existing = None
    new = first_policy.first_policy(spec, [one.digest for one in built])
    # A policy without a manifest beside it is judged by its digests alone.
    form = json_of(_router_file(spec, root, "manifest.json")).get("input", spec.input.described)
    return first_policy.choose(existing, new, same_input=form == spec.input.described)


def models_of(
    spec: Spec,
    target: str,
    built: Sequence[Built],
    choice: first_policy.Choice,
    names: list[str] | None,
    golden: Path,
    versions: Versions,
) -> list[layout.Model]:
    """Say every folder of a cascade, as these versions; arguments as of ``LaidOut.of``."""
    core = layout.core_files()
    described = manifest(
        spec,
        target,
        built,
        models=layout.model_names(spec),
        core_digest=layout.core_digest(core),
        versions=versions,
    )
    files: dict[str, bytes | Path] = {
        "policy.json": choice.text.encode(),
        "manifest.json": manifest_json(described).encode(),
        FILE: golden,
    }
    if choice.old is not None:
        files["policy.json.old"] = choice.old.encode()
    if names is not None:
        files["labels.txt"] = "".join(f"{name}\n" for name in names).encode()
    return layout.layout(spec, target, built, core=core, router_files=files, versions=versions)


def _reports(reasons: dict[str, str | None], remove: Sequence[str]) -> list[ModelReport]:
    reports = [
        ModelReport(
            name=name,
            action="kept" if reason is None else "written",
            reason=reason or "nothing changed",
        )
        for name, reason in reasons.items()
    ]
    gone = "its expert left the spec"
    return reports + [ModelReport(name=name, action="removed", reason=gone) for name in remove]


def _left_over(spec: Spec, root: Path) -> list[str]:
    """Name folders that an earlier build of this cascade wrote and this one does not."""
    before = json_of(_router_file(spec, root, "manifest.json")).get("models")
    ours = [
        name
        for name in (before if isinstance(before, list) else [])
        # The name is read from a file: it must be a folder's, and this cascade's.
        if isinstance(name, str) and NAME.fullmatch(name) and name.startswith(f"{spec.name}_")
    ]
    return [
        name for name in ours if name not in layout.model_names(spec) and (root / name).is_dir()
    ]


def _unfinished(spec: Spec) -> bytes:
    """Write the manifest of a repository that is being changed: no policy holds for it."""
    values = {"schema": SCHEMA, "cascade": spec.name, "unfinished": True, "experts": []}
    return json.dumps(values).encode()


def _router_file(spec: Spec, root: Path, name: str) -> Path:
    return folder_in_force(root, spec.name) / name
