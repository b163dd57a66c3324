"""What a recording did, for people and for machines.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .records import Records, Top

__all__ = ["RecordReport", "TierReport", "copies", "kept_logits", "summary", "tier_reports"]

_NAMED = 5
"""Rows left out that are named to people; machines get all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierReport:
    """One tier on all rows.

    Attributes:
        name: The expert.
        digest: ``sha256:...`` of what ran.
        accuracy: Share of rows whose label it gives, within the label tolerance; None: no labels.
        agreement: Share of rows that it answers as the last tier, within the label tolerance.
        cost_ms: Milliseconds per batch by batch size.
    """

    name: str
    digest: str
    accuracy: float | None
    agreement: float
    cost_ms: Mapping[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReport:
    """What a recording did.

    Attributes:
        cascade: Its name.
        file: Where the records are.
        action: ``recorded``, ``resumed`` or ``kept``.
        reason: Why.
        rows: N.
        labelled: The rows have labels.
        kept_logits: Logits kept per row and tier; None: all.
        resumed_rows: Rows that an earlier, interrupted run had done.
        copies: Rows that have an equal row before them.
        contradictions: Rows of which an equal one has another label.
        left_out: Names of rows left out, with the reason.
        tiers: Cheapest first.
        notes: What the owner of the rows should know.
        rows_per_s: Rows recorded per second; None if none had to be.
        seconds: Spent in all.
    """

    cascade: str
    file: str
    action: str
    reason: str
    rows: int
    labelled: bool
    kept_logits: int | None
    resumed_rows: int
    copies: int
    contradictions: int
    left_out: tuple[tuple[str, str], ...]
    tiers: tuple[TierReport, ...]
    notes: tuple[str, ...]
    rows_per_s: float | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RecordReport:
        """Read what ``as_json`` wrote.

        Raises:
            TypeError: If it is something else; a ``KeyError`` or ``ValueError`` likewise.
        """
        tiers = tuple(
            TierReport(**{**tier, "cost_ms": {int(n): ms for n, ms in tier["cost_ms"].items()}})
            for tier in values["tiers"]
        )
        left_out = tuple((str(name), str(why)) for name, why in values["left_out"])
        notes = tuple(values["notes"])
        return cls(**{**values, "tiers": tiers, "left_out": left_out, "notes": notes})


def tier_reports(records: Records) -> tuple[TierReport, ...]:
    """Count how often each tier is right, block by block."""
    right, agreeing = np.zeros((2, len(records.tiers)), dtype=np.int64)
    for rows in records.blocks():
        answers = [tier.block(rows, records.n_classes).argmax(axis=1) for tier in records.tiers]
        for k, answer in enumerate(answers):
            agreeing[k] += _same(answer, answers[-1], records)
            if records.labels is not None:
                right[k] += _same(answer, records.labels[rows], records)
    n = len(records)
    return tuple(
        TierReport(
            name=tier.name,
            digest=tier.digest,
            accuracy=None if records.labels is None else round(float(right[k] / n), 6),
            agreement=round(float(agreeing[k] / n), 6),
            cost_ms=dict(tier.cost_ms),
        )
        for k, tier in enumerate(records.tiers)
    )


def copies(records: Records) -> tuple[int, int]:
    """Count rows that have an equal row before them, and rows whose equals have another label."""
    _, first, group = np.unique(records.ids, return_index=True, return_inverse=True)
    n_copies = len(records) - len(first)
    if records.labels is None:
        return n_copies, 0
    other = records.labels != records.labels[first][group.ravel()]
    return n_copies, int(other.sum())


def kept_logits(records: Records) -> int | None:
    """Say how many logits are kept of a row and tier; None: all."""
    logits = records.tiers[0].logits
    return logits.logits.shape[1] if isinstance(logits, Top) else None


def summary(report: RecordReport) -> str:
    """Write a report for people."""
    labelled = "labelled" if report.labelled else "without labels"
    lines = [f"{report.cascade}: {report.rows} rows {labelled}, {report.action} ({report.reason})"]
    width = max(len(tier.name) for tier in report.tiers)
    for tier in report.tiers:
        right = "" if tier.accuracy is None else f"accuracy {tier.accuracy:.3f}, "
        ends = [tier.cost_ms[n] / n for n in (min(tier.cost_ms), max(tier.cost_ms))]
        cost = f"{ends[0]:.3g} ms a row alone, {ends[1]:.3g} in a batch of {max(tier.cost_ms)}"
        agreement = f"agreement with the last {tier.agreement:.3f}"
        lines.append(f"  {tier.name:{width}}  {right}{agreement}; {cost}")
    if report.kept_logits is not None:
        lines.append(f"  kept per row and tier: the {report.kept_logits} largest logits")
    if report.copies:
        text = f"  {report.copies} rows are copies of others; copies stay in one set"
        if report.contradictions:
            text += f"; {report.contradictions} have another label than their first copy"
        lines.append(text)
    if report.left_out:
        lines.append(f"  left out: {len(report.left_out)} rows")
        lines += [f"    {name}: {why}" for name, why in report.left_out[:_NAMED]]
        if len(report.left_out) > _NAMED:
            lines.append(f"    and {len(report.left_out) - _NAMED} more")
    speed = "" if report.rows_per_s is None else f", {report.rows_per_s:.1f} rows/s"
    lines.append(f"{Path(report.file)} is ready, {report.seconds:.1f} s{speed}")
    return "\n".join(lines) + "\n"


def _same(labels: Any, others: Any, records: Records) -> int:
    distance = np.abs(labels.astype(np.int64) - others)
    return int((distance <= records.label_tolerance).sum())
