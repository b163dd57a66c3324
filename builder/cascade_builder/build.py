"""From a spec to a model repository; only what changed is done again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError
from cascade_router.policy import NAME

from . import first_policy, layout, repository, rows
from .artifacts import Artifacts, Plan, json_of, record, written
from .build_report import BuildReport, ExpertReport, ModelReport
from .cost import check_order, measure
from .labels import labels
from .manifest import Built, manifest, manifest_json
from .runtime import OnnxExpert
from .spec import Expert, Spec

__all__ = ["build", "chosen_target"]

_UNBUILT = "sha256:" + "0" * 64
_ROWS = 32
"""Real rows used for parity and cost."""

_COST_BATCH = 8
_COST_BUDGET_S = 2.0

Tell = Callable[[str], None]
"""Takes a sentence on what is being done."""


def chosen_target(asked: str | None, spec: Spec) -> tuple[str, str]:
    """Choose what runs the experts.

    Args:
        asked: One of ``spec.TARGETS``, which wins over the spec; None: not asked.
        spec: The cascade.

    Returns:
        The target, and why it.
    """
    if asked not in (None, "auto"):
        return str(asked), "asked for"
    if asked is None and spec.target != "auto":
        return spec.target, "the spec says so"
    return "embedded", "auto: it runs on any machine"


def build(
    spec: Spec,
    repository_folder: Path,
    target: str | None = None,
    *,
    artifacts_folder: Path = Path("build"),
    dry_run: bool = False,
    tell: Tell = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> BuildReport:
    """Build what changed and lay the repository out.

    Args:
        spec: What is asked for.
        repository_folder: The model repository; folders of other cascades stay.
        target: One of ``spec.TARGETS``; None: as the spec says.
        artifacts_folder: Keeps built experts.
        dry_run: Write nothing, say what would be done.
        tell: Takes progress.
        clock: Seconds.

    Raises:
        SpecError: If the spec cannot be fulfilled, tiers out of order included.
        BuildError: If an expert or the repository cannot be made; the repository is untouched.
        RecordsError: If the rows cannot be read.
    """
    start = clock()
    resolved, why = chosen_target(target, spec)
    work = _Work(spec, artifacts_folder, tell, clock)
    names = labels(spec)
    plans = [work.plan(expert, remember=not dry_run) for expert in spec.experts]
    seconds = {plan.expert.name: 0.0 for plan in plans}
    if dry_run:
        built = [plan.built or _unbuilt(plan) for plan in plans]
        costs: dict[str, dict[int, float]] = {}
    else:
        built = [work.built(plan, seconds) for plan in plans]
        costs = work.costs(plans, built)
    models, choice = _layout(spec, resolved, built, repository_folder, names)
    reports, write, remove = _changes(repository_folder, models, spec)
    if not dry_run and (write or remove):
        tell("writing the repository")
        repository.write(repository_folder, write, remove)
    return BuildReport(
        cascade=spec.name,
        repository=str(repository_folder),
        target=resolved,
        target_reason=why,
        dry_run=dry_run,
        experts=tuple(
            ExpertReport(
                name=plan.expert.name,
                action="built" if plan.built is None else "kept",
                reason=plan.reason,
                seconds=round(seconds[plan.expert.name], 2),
                digest=None if one.digest == _UNBUILT else one.digest,
                cost_ms=costs.get(plan.expert.name, {}),
            )
            for plan, one in zip(plans, built, strict=True)
        ),
        models=tuple(reports),
        points=tuple(point["name"] for point in json.loads(choice.text)["points"]),
        policy=choice.action,
        policy_reason=choice.reason,
        seconds=round(clock() - start, 2),
    )


class _Work:
    """The part of a build that runs experts; rows are read only if one must run."""

    def __init__(self, spec: Spec, folder: Path, tell: Tell, clock: Callable[[], float]) -> None:
        self._spec = spec
        self._artifacts = Artifacts(folder, spec)
        self._costs = self._artifacts.folder / "costs.json"
        self._tell = tell
        self._clock = clock
        self._rows: Any = None

    def plan(self, expert: Expert, *, remember: bool) -> Plan:
        """Say whether an expert must be built."""
        return self._artifacts.plan(expert, remember=remember)

    def built(self, plan: Plan, seconds: dict[str, float]) -> Built:
        """Build an expert if it must be; write down the seconds."""
        if plan.built is not None:
            return plan.built
        start, name = self._clock(), plan.expert.name
        self._tell(f"building {name}: {plan.reason}")
        _build_expert(plan, self._spec, self._canonical(), self._artifacts)
        seconds[name] = self._clock() - start
        return self._artifacts.found(plan)

    def costs(self, plans: Sequence[Plan], built: Sequence[Built]) -> dict[str, dict[int, float]]:
        """Say the cost of each expert; all are measured anew if one changed.

        Measured in one go they are comparable: a machine's speed varies from hour to hour.
        """
        wanted = {
            plan.expert.name: {"key": plan.key, "threads": plan.expert.threads} for plan in plans
        }
        known = json_of(self._costs)
        if known.get("experts") != wanted:
            known = {"experts": wanted, "cost_ms": self._measured(built)}
            check_order(known["cost_ms"])
            written(self._costs, json.dumps(known, indent=2).encode())
        return {
            name: {int(size): float(ms) for size, ms in costs.items()}
            for name, costs in known["cost_ms"].items()
        }

    def _measured(self, built: Sequence[Built]) -> dict[str, dict[int, float]]:
        self._tell("measuring the experts")
        return measure(
            {one.expert.name: OnnxExpert(one.path, one.expert.threads) for one in built},
            self._canonical(),
            sorted({1, min(_COST_BATCH, self._spec.max_batch)}),
            budget_s=_COST_BUDGET_S,
            clock=self._clock,
        )

    def _canonical(self) -> Any:
        if self._rows is None:
            raw = rows.raw(self._spec.rows, self._spec.input.kind, _ROWS)
            self._rows = rows.canonical(raw, self._spec.input)
        return self._rows


def _build_expert(plan: Plan, spec: Spec, sample: Any, artifacts: Artifacts) -> None:
    """Export an expert and check that it answers as its module does; else nothing is kept."""
    from . import export, parity

    where = f"expert {plan.expert.name!r}"
    module = export.make(plan.expert)
    onnx = export.onnx_from_torch(
        module, sample, form=spec.input, classes=spec.classes, where=where
    )
    try:
        with artifacts.new(plan) as folder:
            path = folder / "model.onnx"
            path.write_bytes(onnx)
            found = parity.check(module, OnnxExpert(path), sample, where=where)
            record(folder, found.as_json())
    except OSError as exc:
        message = f"{where}: cannot be written: {exc}"
        raise BuildError(message, hint="check free space and rights of the build folder") from exc


def _layout(
    spec: Spec, target: str, built: Sequence[Built], root: Path, names: list[str] | None
) -> tuple[list[layout.Model], first_policy.Choice]:
    """Say what the repository should hold, and which policy it gets."""
    core = layout.core_files()
    existing = _text_of(_router_file(root, spec, "policy.json"))
    new = first_policy.first_policy(spec, [one.digest for one in built])
    choice = first_policy.choose(existing, new)
    text = manifest_json(
        manifest(
            spec,
            target,
            built,
            models=layout.model_names(spec),
            core_digest=layout.core_digest(core),
        )
    )
    files = {"policy.json": choice.text.encode(), "manifest.json": text.encode()}
    if choice.old is not None:
        files["policy.json.old"] = choice.old.encode()
    if names is not None:
        files["labels.txt"] = "".join(f"{name}\n" for name in names).encode()
    return layout.layout(spec, target, built, core=core, router_files=files), choice


def _changes(
    root: Path, models: Sequence[layout.Model], spec: Spec
) -> tuple[list[ModelReport], list[layout.Model], list[str]]:
    """Compare the repository with what it should hold.

    Returns:
        A report per folder, the folders to write, and the names of those to remove.
    """
    reports, write = [], []
    for model in models:
        reason = repository.changed(root, model)
        if reason is not None:
            write.append(model)
        action = "kept" if reason is None else "written"
        reports.append(
            ModelReport(name=model.name, action=action, reason=reason or "nothing changed")
        )
    remove = _left_over(root, spec)
    gone = "its expert left the spec"
    reports += [ModelReport(name=name, action="removed", reason=gone) for name in remove]
    return reports, write, remove


def _left_over(root: Path, spec: Spec) -> list[str]:
    """Name folders that an earlier build of this cascade wrote and this one does not."""
    before = json_of(_router_file(root, spec, "manifest.json")).get("models")
    ours = [
        name
        for name in (before if isinstance(before, list) else [])
        # The name is read from a file: it must be a folder's, and this cascade's.
        if isinstance(name, str) and NAME.fullmatch(name) and name.startswith(f"{spec.name}_")
    ]
    return [
        name for name in ours if name not in layout.model_names(spec) and (root / name).is_dir()
    ]


def _router_file(root: Path, spec: Spec, name: str) -> Path:
    return root / spec.model("router") / "1" / name


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as exc:
        message = f"{path}: cannot be read: {exc}"
        raise BuildError(message, hint="check the rights of the repository") from exc


def _unbuilt(plan: Plan) -> Built:
    """Stand in, in a dry run, for an expert that would be built."""
    path = plan.folder / "model.onnx"
    return Built(expert=plan.expert, path=path, digest=_UNBUILT, parity={})
