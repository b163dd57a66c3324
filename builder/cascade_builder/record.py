"""Record: run the built experts over real rows, write down what they say and what they cost.

    source, out = Source(path=Path("photos")), Path("records.npz")
    report = record(Spec.find("imagenet"), source, Path("model_repository"), out=out)
    Records.load(out)

Chunk by chunk: read, make canonical, run every tier, write a shard. Memory is bounded by the
chunk, and what was interrupted goes on after its last shard. Shapes: N rows, n of one chunk, C
classes, K tiers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import RecordsError, SpecError

from .artifacts import json_of, written
from .class_numbers import ClassNumbers
from .cost import batch_sizes, check_order, measure
from .data import DataSet, open_data
from .labels import labels as class_names
from .record_report import RecordReport, copies, kept_logits, tier_reports
from .record_shards import Shard, Shards, changes
from .record_work import Progress, Work
from .records import Records, TierRecord
from .served import Served, served_experts
from .spec import Spec

__all__ = ["Source", "record"]

_SCHEMA = 1
"""Raised when shards of an earlier release cannot go on."""

_DENSE_BYTES = 2**30
"""Above this many bytes of logits only the largest of each row are kept, if nobody says."""

_TOP = 64
_COST_BUDGET_S = 8.0
_SEED = 0

Tell = Callable[[str], None]
"""Takes a sentence on what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which rows are recorded; see ``data.open_data``.

    Attributes:
        path: Folder, CSV or NPZ file.
        images: What paths in a CSV file are relative to.
        x: Array of rows in an NPZ file.
        y: Array of labels in an NPZ file.
        labels: Text file with names of the classes as the data set writes them.
        unlabelled: Leave labels alone.
        limit: Take this many rows, drawn evenly at random with a fixed seed; None: all.
        skip_bad: Leave broken rows out and count them, instead of stopping at the first.
    """

    path: Path
    images: Path | None = None
    x: str = "x"
    y: str | None = None
    labels: Path | None = None
    unlabelled: bool = False
    limit: int | None = None
    skip_bad: bool = False

    def open(self, spec: Spec) -> DataSet:
        """Open the data set for a cascade."""
        named = spec if self.labels is None else replace(spec, labels=self.labels)
        return open_data(
            self.path,
            spec.input,
            ClassNumbers(spec.classes, lambda: class_names(named)),
            images=self.images,
            x=self.x,
            y=self.y,
            unlabelled=self.unlabelled,
            skip_missing=self.skip_bad,
        )

    def wanted(self, n: int) -> npt.NDArray[np.int64]:
        """Choose rows out of ``n``; the first ones might all be of one class."""
        if self.limit is None or self.limit >= n:
            return np.arange(n)
        return np.sort(np.random.default_rng(_SEED).permutation(n)[: self.limit])


def record(
    spec: Spec,
    source: Source,
    repository: Path,
    *,
    out: Path,
    batch: int | None = None,
    top: int | None = None,
    fresh: bool = False,
    tell: Tell = lambda _: None,
    progress: Progress = lambda done, total, what: None,
    clock: Callable[[], float] = time.perf_counter,
) -> RecordReport:
    """Record, or say that nothing changed since the last time.

    Args:
        spec: The cascade.
        source: The rows.
        repository: The model repository whose experts run.
        out: NPZ file to write; a ``.json`` beside it keeps what it is a recording of.
        batch: Rows per run of an expert; None: ``max_batch`` of the spec. Costs are measured at
            1, 2, 4, ... ``max_batch`` whatever this is.
        top: Keep this many logits of each row, softmax only; None: all, unless they take more
            than a gibibyte.
        fresh: Start anew even if nothing changed.
        tell: Takes what a person should know at once.
        progress: Takes rows done.
        clock: Seconds.

    Raises:
        BuildError: If the repository does not hold what the spec asks for, or an expert fails.
        RecordsError: If the rows cannot be read or a row is broken.
        SpecError: If the names of the classes cannot be read.
    """
    start = clock()
    experts = served_experts(spec, repository)
    data = source.open(spec)
    for note in data.notes:
        tell(note)
    wanted = source.wanted(len(data))
    top = _kept(spec, len(wanted), top)
    key = _key(spec, experts, data, source, top)
    last, reason = _last(out, key)
    if last is not None and not fresh:
        kept = replace(last, action="kept", reason="nothing changed; --fresh records anew")
        return replace(kept, rows_per_s=None, seconds=round(clock() - start, 2))
    shards = Shards(out, key)
    with shards.held():
        done, stale = shards.resume(fresh=fresh)
        if stale is not None:
            tell(f"starting anew: {stale}")
        elif done:
            tell(f"going on after {done} of {len(wanted)} rows")
        work = Work(
            spec,
            experts,
            data,
            batch=batch or spec.max_batch,
            top=top,
            skip_bad=source.skip_bad,
        )
        begun = clock()
        work.run(wanted, done, shards, progress)
        speed = (len(wanted) - done) / max(clock() - begun, 1e-9)
        merged = shards.merged()
        if not len(merged.numbers):
            message = f"{source.path}: none of {len(wanted)} rows can be recorded"
            raise RecordsError(message, hint="run without --skip-bad to see the first reason")
        costs = measure(
            work.runs,
            work.sample(merged.numbers, spec.max_batch),
            batch_sizes(spec.max_batch),
            budget_s=_COST_BUDGET_S,
            clock=clock,
            progress=lambda n, total: progress(n, total, "measuring cost"),
        )
        notes = _order(costs)
        for note in notes:
            tell(note)
        records = _records(spec, experts, data, merged, costs)
        _save(records, out)
        n_copies, contradictions = copies(records)
        report = RecordReport(
            cascade=spec.name,
            file=str(out),
            action="resumed" if done else "recorded",
            reason=f"{done} rows were there" if done else stale or reason,
            rows=len(records),
            labelled=records.labels is not None,
            kept_logits=kept_logits(records),
            resumed_rows=done,
            copies=n_copies,
            contradictions=contradictions,
            left_out=(*data.missing, *merged.bad),
            tiers=tier_reports(records),
            notes=(*data.notes, *notes),
            rows_per_s=round(speed, 2) if done < len(wanted) else None,
            seconds=round(clock() - start, 2),
        )
        _remember(out, key, report)
        shards.remove()
    return report


def _save(records: Records, out: Path) -> None:
    try:
        records.save(out)
    except OSError as exc:
        message = f"{out}: cannot be written: {exc}"
        raise RecordsError(message, hint="check free space and rights, or give --out") from exc


def _kept(spec: Spec, n: int, asked: int | None) -> int | None:
    """Say how many logits of a row are kept; None: all."""
    if asked is not None and spec.activation != "softmax":
        message = f"--top: {spec.name!r} has sigmoids, of which all logits are kept"
        raise SpecError(message, hint="leave --top away")
    if asked is None:
        n_bytes = 4 * n * spec.classes * len(spec.experts)
        asked = _TOP if spec.activation == "softmax" and n_bytes > _DENSE_BYTES else spec.classes
    return None if asked >= spec.classes else asked


def _key(
    spec: Spec, experts: Sequence[Served], data: DataSet, source: Source, top: int | None
) -> dict[str, Any]:
    """Say all that records depend on; a change of any starts anew."""
    every = source.limit is None or source.limit >= len(data)
    limit = None if every else source.limit
    return {
        "schema": _SCHEMA,
        "spec": {
            "cascade": spec.name,
            "activation": spec.activation,
            "classes": spec.classes,
            "label_tolerance": spec.label_tolerance,
            "max_batch": spec.max_batch,
            "input": spec.input.described,
        },
        "expert": {one.expert.name: [one.digest, one.expert.threads] for one in experts},
        "data set": data.digest,
        "options": {"limit": limit, "skip_bad": source.skip_bad, "top": top},
    }


def _records(
    spec: Spec,
    experts: Sequence[Served],
    data: DataSet,
    merged: Shard,
    costs: Mapping[str, Mapping[int, float]],
) -> Records:
    tiers = tuple(
        TierRecord(
            name=one.expert.name,
            model=one.model,
            digest=one.digest,
            logits=logits,
            cost_ms=costs[one.expert.name],
        )
        for one, logits in zip(experts, merged.tiers, strict=True)
    )
    return Records(
        cascade=spec.name,
        activation=spec.activation,
        n_classes=spec.classes,
        tiers=tiers,
        ids=merged.ids,
        labels=None if data.labels is None else data.labels[merged.numbers],
        label_tolerance=spec.label_tolerance,
        input=spec.input.described,
    )


def _order(costs: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Note tiers that are out of order; calibration shows what it costs."""
    try:
        check_order(costs)
    except SpecError as exc:
        return [f"{exc.message}; {exc.hint}"]
    return []


def _last(out: Path, key: Mapping[str, Any]) -> tuple[RecordReport | None, str]:
    """Find the report of the same recording, if its file is still there; else say why not."""
    values = json_of(out.with_suffix(".json"))
    if not out.is_file():
        return None, "not recorded yet"
    if values.get("file") != _stat(out):
        return None, "its file is not the one that was recorded"
    reason = changes(values.get("key", {}), json.loads(json.dumps(key)))
    if reason is not None:
        return None, reason
    try:
        return RecordReport.from_json(values["report"]), "nothing changed"
    except (KeyError, TypeError, ValueError):
        return None, "its report is broken"


def _remember(out: Path, key: Mapping[str, Any], report: RecordReport) -> None:
    values = {"key": key, "file": _stat(out), "report": report.as_json()}
    written(out.with_suffix(".json"), json.dumps(values, indent=2).encode())


def _stat(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
