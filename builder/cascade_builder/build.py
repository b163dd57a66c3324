"""From a spec to a model repository; only what changed is done again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError
from cascade_router.supervision.remains import holder

from . import golden, repository, rows, targets
from .artifacts import Task, found, json_of, written
from .build_report import BuildReport, ExpertReport
from .expert_costs import costs
from .labels import labels
from .laid_out import LaidOut
from .locks import locked
from .manifest import Built
from .memory import Limits, expected_bytes
from .pruning import prune, tidy
from .spec import Spec
from .targets.job import Array
from .tasks import Tasks

__all__ = ["Made", "Work", "alone", "build"]

_ROWS = 32
"""Real rows used for verification and cost."""

Tell = Callable[[str], None]
"""Takes a sentence on what is being done."""


def build(
    spec: Spec,
    repository_folder: Path,
    target: str | None = None,
    *,
    artifacts_folder: Path = Path("build"),
    dry_run: bool = False,
    limits: Limits | None = None,
    tell: Tell = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> BuildReport:
    """Build what changed and lay the repository out.

    Args:
        spec: What is asked for.
        repository_folder: The model repository; folders of other cascades stay.
        target: One of ``targets.TARGETS``; None: as the spec says.
        artifacts_folder: Keeps built experts.
        dry_run: Write nothing, say what would be done.
        limits: What experts made side by side may use; None: one after the other, in this process.
            Side by side, each is made by a new interpreter: a script that calls this then needs
            ``if __name__ == "__main__"``.
        tell: Takes progress.
        clock: Seconds.

    Raises:
        SpecError: If the spec cannot be fulfilled, tiers out of order included.
        BuildError: If an expert or the repository cannot be made, or another build uses the
            folders; the repository is untouched.
        RecordsError: If the rows cannot be read.
    """
    start = clock()
    resolved, why = targets.choose(target, spec)
    targets.check(spec, resolved)
    folder = artifacts_folder / spec.name
    work = Work(spec, resolved, repository_folder, folder, tell, clock)
    if dry_run:
        completed = repository.unfinished(repository_folder, spec.name)
        report = work.planned()
    else:
        with alone(folder, repository_folder, tell):
            completed = repository.finish(repository_folder, spec.name)
            tidy(folder)
            report = work.done(limits)
    return dataclasses.replace(
        report,
        target_reason=why,
        completed_interrupted=completed,
        seconds=round(clock() - start, 2),
    )


@contextlib.contextmanager
def alone(folder: Path, repository_folder: Path, tell: Tell) -> Iterator[None]:
    """Keep other builds out of both folders."""
    with (
        locked(folder, "build folder", tell),
        locked(repository_folder, "repository", tell),
    ):
        yield


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The experts of a cascade, ready to be laid out.

    Attributes:
        tasks: One per expert, in the order of the tiers.
        built: What came of them.
        cost_ms: Milliseconds per batch by batch size, by name of the expert.
        golden: File of the golden rows.
    """

    tasks: Sequence[Task]
    built: Sequence[Built]
    cost_ms: dict[str, dict[int, float]]
    golden: Path


class Work:
    """One build of one cascade; rows are read only if an expert must run."""

    def __init__(
        self,
        spec: Spec,
        target: str,
        repository_folder: Path,
        folder: Path,
        tell: Tell,
        clock: Callable[[], float],
    ) -> None:
        self._spec = spec
        self._target = target
        self._repository = repository_folder
        self._folder = folder
        self._tell = tell
        self._clock = clock
        self._rows: Array | None = None
        self._seconds: dict[str, float] = {}
        self._tasks = Tasks(folder, spec, target, repository_folder)

    def planned(self) -> BuildReport:
        """Say what would be done."""
        tasks = self._all_tasks()
        built = [task.built or LaidOut.unbuilt(task, self._target) for task in tasks]
        laid_out = self._laid_out(built, golden.unmade(self._folder, tasks))
        return self._report(tasks, built, laid_out, {}, dry_run=True)

    def done(self, limits: Limits | None) -> BuildReport:
        """Do it."""
        made = self.made(limits)
        laid_out = self._laid_out(made.built, made.golden)
        if laid_out.differs:
            _not_served(self._repository)
            self._tell("writing the repository")
            laid_out.write_out()
        return self._report(made.tasks, made.built, laid_out, made.cost_ms, dry_run=False)

    def made(self, limits: Limits | None) -> Made:
        """Make the experts; the repository stays as it is."""
        tasks = self._all_tasks()
        self._make([task for task in tasks if task.built is None], limits)
        built = [task.built or found(task) for task in tasks]
        self._tasks.remember()
        spent = costs(
            self._folder / "costs.json",
            self._spec,
            self._target,
            tasks,
            built,
            self._canonical,
            tell=self._tell,
            clock=self._clock,
        )
        kept = golden.golden_file(
            self._folder, self._spec, self._target, tasks, built, self._canonical, self._tell
        )
        prune(self._folder, tasks)
        return Made(tasks=tasks, built=built, cost_ms=spent, golden=kept)

    def _all_tasks(self) -> list[Task]:
        return [self._tasks.of(expert) for expert in self._spec.experts]

    def _laid_out(self, built: Sequence[Built], kept: Path) -> LaidOut:
        names = labels(self._spec)
        return LaidOut.of(self._spec, self._target, built, self._repository, names, kept)

    def _make(self, tasks: Sequence[Task], limits: Limits | None) -> None:
        """Make experts: side by side where that is wanted and there are several."""
        if limits is None or limits.jobs == 1 or len(tasks) < 2:
            for i, task in enumerate(tasks):
                self._make_here(task, f"{i + 1} of {len(tasks)}")
        else:
            self._make_side_by_side(tasks, limits)

    def _make_here(self, task: Task, place: str) -> None:
        from .making import make

        name, start = task.expert.name, self._clock()
        self._tell(f"building {name} ({place}): {task.reason}")
        make(task, self._spec, self._target, self._canonical(), self._told_of(name))
        self._finished(name, start)

    def _make_side_by_side(self, tasks: Sequence[Task], limits: Limits) -> None:
        import numpy as np

        from .workers import Workshop

        peaks = self._folder / "memory.json"
        before = json_of(peaks)

        def done(task: Task, peak_bytes: int, start: float) -> None:
            before[task.expert.name] = peak_bytes
            self._finished(task.expert.name, start)

        with tempfile.TemporaryDirectory(prefix=".rows-", dir=self._folder) as scratch:
            path = Path(scratch) / "rows.npy"
            np.save(path, self._canonical(), allow_pickle=False)
            shop = Workshop(self._spec, self._target, path, limits, self._tell, self._clock)
            shop.make(tasks, {task.expert.name: _need(task, before) for task in tasks}, done)
        written(peaks, json.dumps(before, indent=2).encode())

    def _told_of(self, name: str) -> Tell:
        return lambda text: self._tell(f"{name}: {text}")

    def _finished(self, name: str, start: float) -> None:
        self._seconds[name] = self._clock() - start
        self._tell(f"built {name} in {self._seconds[name]:.1f} s")

    def _canonical(self) -> Array:
        if self._rows is None:
            raw = rows.raw(self._spec.rows, self._spec.input.kind, _ROWS)
            self._rows = rows.canonical(raw, self._spec.input)
        return self._rows

    def _report(
        self,
        tasks: Sequence[Task],
        built: Sequence[Built],
        laid_out: LaidOut,
        spent: dict[str, dict[int, float]],
        *,
        dry_run: bool,
    ) -> BuildReport:
        experts = tuple(
            ExpertReport(
                name=task.expert.name,
                source=task.expert.source.kind,
                precision=task.expert.precision,
                action=_action(task),
                reason=task.reason,
                seconds=round(self._seconds.get(task.expert.name, 0.0), 2),
                digest=None if LaidOut.is_unbuilt(one) else one.digest,
                cost_ms=spent.get(task.expert.name, {}),
                unverified=_unverified(one.figures),
            )
            for task, one in zip(tasks, built, strict=True)
        )
        return BuildReport(
            cascade=self._spec.name,
            repository=str(self._repository),
            target=self._target,
            target_reason="",
            dry_run=dry_run,
            completed_interrupted=False,
            experts=experts,
            models=laid_out.reports,
            points=laid_out.points,
            policy=laid_out.policy.action,
            policy_reason=laid_out.policy.reason,
            seconds=0.0,
        )


def _not_served(repository_folder: Path) -> None:
    """Refuse to exchange files that a server may look at again at any time, one model at a time.

    Raises:
        BuildError: If cascade-serve runs on the repository; a stock tritonserver leaves no trace.
    """
    process = holder(repository_folder)
    if process is not None:
        message = f"{repository_folder}: cascade-serve (process {process}) is serving it"
        hint = "`cascade-builder deploy` changes it while it serves; or stop the server"
        raise BuildError(message, hint=hint)


def _action(task: Task) -> str:
    if task.built is not None:
        return "kept"
    return "built" if task.served is None else "checked"


def _unverified(figures: Mapping[str, Any]) -> str | None:
    """Find why an expert's answers could not be checked, in any step; None: they were."""
    for key, value in figures.items():
        if key == "unverified":
            return str(value)
        if isinstance(value, Mapping) and (why := _unverified(value)) is not None:
            return why
    return None


def _need(task: Task, before: dict[str, int]) -> int:
    """Say how much memory making an expert is expected to take."""
    return expected_bytes(task.weights_bytes, before.get(task.expert.name))
