"""What a verification found, for people and for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from cascade_builder.comparison import TOLERANCES, Comparison

__all__ = ["DIFFERS", "NOT_CHECKED", "SAME", "ExpertReport", "Report", "Step", "print_report"]

SAME = "same"
DIFFERS = "differs"
NOT_CHECKED = "not checked"

_WIDTH = 120
"""Columns when nobody looks: a file or a pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A form of an expert compared with the one before it.

    Attributes:
        before: What it is compared with.
        after: What is compared.
        outcome: ``SAME``, ``DIFFERS`` or ``NOT_CHECKED``.
        comparison: The figures; None where none were needed or could be had.
        why: What differs, why it was not checked, or why no figures were needed.
        hint: What to try.
    """

    before: str
    after: str
    outcome: str
    comparison: Comparison | None = None
    why: str | None = None
    hint: str | None = None

    def told(
        self,
        outcome: str,
        *,
        comparison: Comparison | None = None,
        why: str | None = None,
        hint: str | None = None,
    ) -> Step:
        """Say what came of it."""
        return dataclasses.replace(self, outcome=outcome, comparison=comparison, why=why, hint=hint)

    def as_json(self) -> dict[str, Any]:
        """Write for machines; what is not known is left out."""
        figures = {} if self.comparison is None else self.comparison.as_json()
        told = {"why": self.why, "hint": self.hint}
        return {
            "from": self.before,
            "to": self.after,
            "outcome": self.outcome,
            **figures,
            **{key: value for key, value in told.items() if value is not None},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertReport:
    """What was found of one expert.

    Attributes:
        name: Its name.
        model: The Triton model that runs it.
        precision: What it computes in, which decides the tolerance.
        steps: In the order of its making.
    """

    name: str
    model: str
    precision: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found of a cascade.

    Attributes:
        cascade: Its name.
        repository: Where it lies.
        target: What runs the experts.
        server: Which server was asked, or why none was.
        rows: Real rows that every form was given.
        batches: At these batch sizes.
        experts: In the order of the tiers.
        seconds: Spent in all.
    """

    cascade: str
    repository: str
    target: str
    server: str
    rows: int
    batches: tuple[int, ...]
    experts: tuple[ExpertReport, ...]
    seconds: float

    def steps(self, outcome: str) -> list[Step]:
        """Find the steps with an outcome."""
        return [step for one in self.experts for step in one.steps if step.outcome == outcome]

    @property
    def verified(self) -> bool:
        """Say whether every step was checked and none differs."""
        return not self.steps(DIFFERS) and not self.steps(NOT_CHECKED)

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        values = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "experts"
        }
        experts = [
            {
                "name": one.name,
                "model": one.model,
                "precision": one.precision,
                "steps": [step.as_json() for step in one.steps],
            }
            for one in self.experts
        ]
        return {
            **values,
            "batches": list(self.batches),
            "verified": self.verified,
            "experts": experts,
        }


def print_report(report: Report, file: IO[str]) -> None:
    """Print a table of all steps, and below it the tolerances and what could not be checked."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_WIDTH)
    sizes = " and ".join(map(str, report.batches))
    head = f"{report.cascade}: {report.rows} real rows in batches of {sizes}; {report.server}"
    console.print(Text(head), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("expert", no_wrap=True)
    table.add_column("conversion", overflow="fold")
    table.add_column("answers", no_wrap=True)
    for name in ("labels agree", "score drift", "error", "largest"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in report.experts:
        for i, step in enumerate(one.steps):
            name = f"{one.name} ({one.precision})" if i == 0 else ""
            style = "bold red" if step.outcome == DIFFERS else ""
            table.add_row(*(Text(cell, style=style) for cell in (name, *_cells(step))))
        table.add_section()
    console.print(table)
    for line in _notes(report):
        console.print(Text(line), soft_wrap=True)


def _cells(step: Step) -> Iterator[str]:
    yield f"{step.before} to {step.after}"
    found = step.comparison
    yield "same file" if step.outcome == SAME and found is None else step.outcome
    if found is None:
        yield from ("", "", "", "")
        return
    yield f"{found.label_agreement:.4f}"
    yield from (f"{x:.1e}" for x in (found.score_drift, found.error, found.largest_difference))


def _notes(report: Report) -> Iterator[str]:
    found = [step.comparison for one in report.experts for step in one.steps]
    for tolerance in dict.fromkeys(one.tolerance for one in found if one is not None):
        precisions = ", ".join(name for name, one in TOLERANCES.items() if one == tolerance)
        yield (
            f"tolerance of {precisions}: labels agree {tolerance.label_agreement:g} at least; at "
            f"most score drift {tolerance.score_drift:g}, and as shares of the logits' deviation "
            f"error {tolerance.error:g} and largest difference {tolerance.largest_difference:g}"
        )
    for one in report.experts:
        for step in one.steps:
            if step.outcome == NOT_CHECKED:
                yield f"not checked: {one.name}, {step.before} to {step.after}: {step.why}"
    counts = {name: len(report.steps(name)) for name in (SAME, DIFFERS, NOT_CHECKED)}
    said = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    yield f"{report.repository}: {said}, {report.seconds:.1f} s"
