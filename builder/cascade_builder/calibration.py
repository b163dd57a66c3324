"""The whole of ``cascade-builder calibrate``: records in, a policy in force and a report out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError, CalibrationError, RecordsError
from cascade_router.policy import Policy

from . import policy_file
from .locks import locked
from .manifest import file_digest
from .records import Records
from .spec import Spec
from .verdict import Verdict
from .wish import LAST, Goal, Wish
from .words import beaten_by, shown

__all__ = ["MADE_BY", "Asked", "Outcome", "calibrate_spec", "refused", "usual_goals"]

MADE_BY = "cascade-builder calibrate"
_NEEDED = ["scipy", "matplotlib", "jinja2"]
_DROPS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
"""What `usual_goals` may ask for."""

_EXPECTED = 7.5
"""Rows that a drop may lose on average; with fewer, hardly any promise can be proved."""

_VERSIONS = ["triton-cascade", "numpy", "scipy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the person who calibrates asks for.

    Attributes:
        goals: By name; empty: ``usual_goals``.
        default: Point of a request that names none; None: the one that promises most.
        level: Of the ladder's certificate.
        batch: Mean rows per batch that arrives; None: as ``Wish``.
        with_labels: Promise accuracy, not agreement; None: where the records hold labels.
        seed: Of the split and the folds.
    """

    goals: Mapping[str, Goal]
    default: str | None = None
    level: float = 0.95
    batch: float | None = None
    with_labels: bool | None = None
    seed: int = 0

    def wish(self, n_rows: int) -> Wish:
        """Say it as ``calibrate`` takes it.

        Args:
            n_rows: Rows recorded.

        Raises:
            CalibrationError: If it makes no sense.
        """
        usual = Wish()
        return Wish(
            goals=dict(self.goals) or usual_goals(round(n_rows * usual.shares[2])),
            batch=usual.batch if self.batch is None else self.batch,
            default=self.default or LAST,
            # 1 - 0.95 is not 0.05 in binary.
            delta=round(1 - self.level, 12),
            with_labels=self.with_labels,
            seed=self.seed,
        )


def usual_goals(n_check: int) -> dict[str, Goal]:
    """Name the goals of somebody who asks for nothing in particular.

    The tightest drop is one that so many rows can support as a rule; the others are the next ones.
    It depends on the number of rows alone, never on what they hold, so promises stay valid.

    Example:
        >>> [goal.drop for goal in usual_goals(390).values()]
        [0.02, 0.03, 0.05]
        >>> [goal.drop for goal in usual_goals(5000).values()]
        [0.005, 0.01, 0.02]
    """
    names = ("careful", "balanced", "fast")
    last = len(_DROPS) - len(names)
    fits = (k for k, drop in enumerate(_DROPS) if drop * n_check >= _EXPECTED)
    first = min(next(fits, last), last)
    return {name: Goal(drop=drop) for name, drop in zip(names, _DROPS[first:], strict=False)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a calibration did; in a dry run, what it would do.

    Attributes:
        verdict: What was found.
        policy: ``written``, ``replaced``, ``kept`` or ``not written``.
        policy_file: Where it is.
        report: The page; None: none was asked for.
        dry_run: Nothing was written.
        notes: What the operator should know.
        way_out: If the policy was not written: what to do.
        seconds: Spent in all.
    """

    verdict: Verdict
    policy: str
    policy_file: Path
    report: Path | None
    dry_run: bool
    notes: tuple[str, ...]
    way_out: str | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        values = {**asdict(self), "verdict": self.verdict.as_json()}
        values["policy_file"] = str(self.policy_file)
        values["report"] = None if self.report is None else str(self.report)
        return values


def calibrate_spec(
    spec: Spec,
    asked: Asked,
    *,
    records_file: Path,
    repository: Path,
    report: Path | None,
    now: str,
    dry_run: bool = False,
    force: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Calibrate a built cascade from its records and put the policy in force.

    Args:
        spec: The cascade.
        asked: What is wanted.
        records_file: What ``record`` wrote.
        repository: Holds the built cascade; it may be serving.
        report: Folder of the report; None: no report.
        now: Time written into the provenance.
        dry_run: Write nothing.
        force: Put the policy in force even where it does not pay to cascade.
        tell: Takes progress.
        clock: Seconds.

    Raises:
        CalibrationError: If records and repository do not fit, or no longer do in the end, or
            nothing can be certified.
        RecordsError: If the records cannot be read.
        BuildError: If a package is missing, a file cannot be written, or a build or deployment is
            using the repository.
    """
    start = clock()
    _check_packages()
    tell("reading the records")
    records = _records(records_file, spec)
    wish = asked.wish(len(records))
    policy_file.check_fits(records, spec, repository)
    tell("calibrating")
    policy, verdict = _calibrated(
        records, wish, asked, _provenance(spec, records, records_file, now)
    )
    page = None
    if report is not None:
        tell("drawing the report")
        folder = policy_file.router_folder(spec, repository)
        page = _reported(report, verdict, policy.provenance, folder, dry_run=dry_run)
    # Only now: what serves may be changed, or taken back, while a calibration is under way.
    with locked(repository, "repository", tell):
        policy_file.check_fits(records, spec, repository)
        folder = policy_file.router_folder(spec, repository)
        notes: list[str] = []
        if verdict.cascade_pays or force:
            placed = policy_file.place(policy, folder, dry_run=dry_run)
            action, way_out = placed.action, None
            notes += _notes(placed, folder, policy.point_names)
        else:
            action, way_out = "not written", _way_out(spec, verdict)
    return Outcome(
        verdict=verdict,
        policy=action,
        policy_file=folder / "policy.json",
        report=page,
        dry_run=dry_run,
        notes=tuple(notes),
        way_out=way_out,
        seconds=round(clock() - start, 2),
    )


def _check_packages() -> None:
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            message = f"calibrate: the package {name!r} is not installed"
            raise BuildError(message, hint="pip install 'triton-cascade[calibrate]'")


def _records(path: Path, spec: Spec) -> Records:
    if not path.is_file():
        message = f"{path}: there are no records"
        raise RecordsError(message, hint=f"run `cascade-builder record {spec.name} --data D`")
    return Records.load(path)


def _calibrated(
    records: Records, wish: Wish, asked: Asked, provenance: Mapping[str, Any]
) -> tuple[Policy, Verdict]:
    from .calibrate import calibrate
    from .default_point import strictest, with_default

    done = calibrate(records, wish, provenance=provenance)
    if asked.default is None:
        done = with_default(done, records, wish, strictest(done, wish))
    return done.policy, done.verdict


def _provenance(spec: Spec, records: Records, path: Path, now: str) -> dict[str, Any]:
    return {
        "made_by": MADE_BY,
        "made_at": now,
        "certified": True,
        "spec_digest": spec.digest,
        "records": {
            "file": str(path),
            "digest": file_digest(path),
            "rows": len(records),
            "labelled": records.labels is not None,
        },
        "experts": {tier.name: tier.digest for tier in records.tiers},
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
    }


def _reported(
    report: Path, verdict: Verdict, provenance: Mapping[str, Any], folder: Path, *, dry_run: bool
) -> Path:
    from .report import PAGE, report_files, write_report

    # Drawn before anything is put in force: a figure that fails must not leave half a calibration.
    files = report_files(verdict, provenance, _class_names(folder))
    return report / PAGE if dry_run else write_report(report, files)


def _class_names(folder: Path) -> list[str] | None:
    """Read the names that the repository serves."""
    try:
        return (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None


def _notes(placed: policy_file.Placed, folder: Path, points: list[str]) -> list[str]:
    notes = []
    if placed.lost_points:
        names = ", ".join(placed.lost_points)
        notes.append(f"no longer there: {names}; requests that name them are refused")
    switched = policy_file.switched_to(folder)
    if switched in points:
        notes.append(f"an operator switched the default to {switched}; that stays")
    elif switched is not None:
        notes.append(f"an operator switched to {switched}, which is gone: the new default serves")
    return notes


def _way_out(spec: Spec, verdict: Verdict) -> str:
    """Say what to do where the default point does not pay."""
    paying = [
        point.name
        for point in verdict.points
        if point.name != verdict.default
        and point.saving > 0
        and max(point.exit_shares) < 1
        and beaten_by(verdict, point) is None
    ]
    if paying:
        return f"these points do pay: {', '.join(paying)}; choose one by --default, or --force"
    alone = beaten_by(verdict, shown(verdict)) or verdict.singles[-1]
    return f"serve the model {spec.model(alone.name)} alone, or write the policy anyway by --force"


def refused(outcome: Outcome) -> CalibrationError | None:
    """Give the error of a calibration whose policy was not put in force."""
    if outcome.way_out is None:
        return None
    message = f"calibrate: {outcome.verdict.reason}; policy.json stays as it is"
    return CalibrationError(message, hint=outcome.way_out)
