"""What a build did, for people and for machines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["BuildReport", "ExpertReport", "ModelReport", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertReport:
    """What was done for an expert.

    Attributes:
        name: Its name.
        source: Kind of its source.
        precision: What it computes in.
        action: ``built`` or ``kept``; ``checked`` for a model that was served already.
        reason: Why.
        seconds: Spent on it.
        digest: ``sha256:...`` of what is served; None in a dry run that would build it.
        cost_ms: Measured milliseconds per batch by batch size.
        unverified: Why its answers could not be checked; None: they were.
    """

    name: str
    source: str
    precision: str
    action: str
    reason: str
    seconds: float
    digest: str | None
    cost_ms: dict[int, float]
    unverified: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """What was done for a folder of the repository: ``written``, ``kept`` or ``removed``."""

    name: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """What a build did; in a dry run, what it would do.

    Attributes:
        cascade: Its name.
        repository: Where it lies.
        target: What runs the experts.
        target_reason: Why that.
        dry_run: Nothing was written.
        completed_interrupted: A build that was killed had to be completed first.
        experts: In the order of the tiers.
        models: Folders of the repository.
        points: Names of the operating points of the policy there.
        policy: ``written``, ``kept`` or ``replaced``.
        policy_reason: Why.
        seconds: Spent in all.
    """

    cascade: str
    repository: str
    target: str
    target_reason: str
    dry_run: bool
    completed_interrupted: bool
    experts: tuple[ExpertReport, ...]
    models: tuple[ModelReport, ...]
    points: tuple[str, ...]
    policy: str
    policy_reason: str
    seconds: float

    @property
    def nothing_done(self) -> bool:
        """Say whether everything was there already."""
        actions = [one.action for one in self.experts] + [one.action for one in self.models]
        return all(action == "kept" for action in actions)

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return {**asdict(self), "nothing_done": self.nothing_done}


def summary(report: BuildReport) -> str:
    """Write a report for people."""
    lines = [f"{report.cascade}: target {report.target} ({report.target_reason})"]
    would = "would be " if report.dry_run else ""
    if report.completed_interrupted:
        lines.append(f"  an interrupted build {would or 'was '}completed first")
    for expert in report.experts:
        cost = ", ".join(f"{ms:.3g} ms at {n}" for n, ms in expert.cost_ms.items())
        spent = f" in {expert.seconds:.1f} s" if expert.seconds else ""
        action = expert.action if expert.action == "kept" else f"{would}{expert.action}"
        line = f"  expert {expert.name}: {action}{spent} ({expert.reason})"
        lines.append(f"{line}; {cost}" if cost else line)
        if expert.unverified is not None:
            lines.append(f"    its answers were not checked: {expert.unverified}")
    for model in report.models:
        action = model.action if model.action == "kept" else f"{would}{model.action}"
        lines.append(f"  model {model.name}: {action} ({model.reason})")
    points = ", ".join(report.points)
    action = report.policy if report.policy == "kept" else f"{would}{report.policy}"
    lines.append(f"  policy: {action} ({report.policy_reason}); points {points}")
    if report.policy == "replaced":
        lines.append("  the policy that was there: policy.json.old beside it")
    if report.nothing_done:
        lines.append(f"nothing to do, {report.seconds:.1f} s")
    elif report.dry_run:
        lines.append("nothing was written: --dry-run")
    else:
        lines.append(f"{report.repository} is ready, {report.seconds:.1f} s")
    return "\n".join(lines) + "\n"
