"""Records: what every built expert said about the calibration rows, and what it costs.

Calibration reads nothing else: no expert runs again. Shapes: N rows, C classes, K tiers, T kept
logits per row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from cascade_router.errors import RecordsError
from cascade_router.scores import ACTIVATIONS, Floats
from cascade_router.strict import Table

__all__ = ["SCHEMA", "Records", "Split", "TierRecord", "Top"]

SCHEMA = 1
"""Schema number written; records with another one are refused by name."""

_RERECORD = "run `cascade-builder record` again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Top:
    """The largest logits of every row, for tasks with very many softmax classes.

    ``dense`` puts them back in their places and spreads the rest of the probability evenly over
    the other classes; scores are then computed as if these were the logits. Label, maximum,
    margin, gap and energy at temperature 1 are exact; entropy (an even tail has the most) and
    everything at another temperature are approximate, the closer the more logits are kept.

    Attributes:
        logits: (N, T) float, largest first, T < C.
        classes: (N, T) int, whose they are.
        rest: (N,) float, logsumexp over the C - T other classes.
    """

    logits: Floats
    classes: npt.NDArray[np.integer[Any]]
    rest: Floats

    @classmethod
    def of(cls, logits: Floats, keep: int) -> Top:
        """Keep the ``keep`` largest of (N, C) logits, keep < C."""
        z = np.asarray(logits, dtype=np.float32)
        order = np.argsort(-z, axis=1, kind="stable")
        left = np.take_along_axis(z, order[:, keep:], axis=1)
        rest = left[:, 0] + np.log(np.exp(left - left[:, :1]).sum(axis=1))
        top = np.take_along_axis(z, order[:, :keep], axis=1)
        return cls(logits=top, classes=order[:, :keep].astype(np.int32), rest=rest)

    def dense(self, rows: slice, n_classes: int) -> Floats:
        """Rebuild (n, C) float32 logits of some rows."""
        top = np.asarray(self.logits[rows], dtype=np.float32)
        tail = np.asarray(self.rest[rows], np.float32) - np.float32(
            np.log(n_classes - top.shape[1])
        )
        # An even tail is never above the least kept logit; rounding must not make it so.
        tail = np.minimum(tail, top[:, -1])
        out = np.repeat(tail[:, None], n_classes, axis=1)
        np.put_along_axis(out, self.classes[rows].astype(np.int64), top, axis=1)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRecord:
    """One tier on all rows.

    Attributes:
        name: The expert's name in ``cascade.toml``.
        model: The Triton model that runs it.
        digest: ``sha256:...`` of what ran.
        logits: (N, C) float16 or float32, or the ``Top`` of them.
        cost_ms: Milliseconds per batch by batch size.
    """

    name: str
    model: str
    digest: str
    logits: Floats | Top
    cost_ms: Mapping[int, float] = field(default_factory=dict)

    def block(self, rows: slice, n_classes: int) -> Floats:
        """Give (n, C) float logits of some rows."""
        if isinstance(self.logits, Top):
            return self.logits.dense(rows, n_classes)
        return self.logits[rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Three disjoint sets of row numbers, each ascending.

    Attributes:
        fit: (n,) int64, for temperatures and learned scores.
        choose: (n,) int64, for thresholds and for what is kept of the former.
        check: (n,) int64, for the certificate and the report; nothing is chosen on them.
    """

    fit: npt.NDArray[np.int64]
    choose: npt.NDArray[np.int64]
    check: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """All tiers of a cascade on the same rows.

    Attributes:
        cascade: Name of the cascade.
        activation: One of ``scores.ACTIVATIONS``.
        n_classes: C.
        tiers: K tiers, cheapest first.
        ids: (N,) text or int; rows of equal id are copies and stay in one set.
        labels: (N,) int, true class; None without labels.
        label_tolerance: Labels this far apart count as the same.
        input: What rows were made by, as a manifest says it; None: not known.
    """

    cascade: str
    activation: str
    n_classes: int
    tiers: tuple[TierRecord, ...]
    ids: npt.NDArray[Any]
    labels: npt.NDArray[np.integer[Any]] | None = None
    label_tolerance: int = 0
    input: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse tiers that saw different rows."""
        if self.activation not in ACTIVATIONS or not self.tiers or self.n_classes < 2:
            self._refuse(f"{len(self.tiers)} tiers, {self.n_classes} classes, {self.activation!r}")
        for tier in self.tiers:
            if isinstance(tier.logits, Top):
                top = tier.logits
                shape = (len(self), top.logits.shape[1])
                fits = top.logits.shape == top.classes.shape == shape and shape[1] < self.n_classes
                fits = fits and top.rest.shape == (len(self),) and self.activation == "softmax"
            else:
                fits = tier.logits.shape == (len(self), self.n_classes)
            if not fits:
                expected = (len(self), self.n_classes)
                self._refuse(f"tier {tier.name!r} does not hold {expected} logits")
        if self.labels is not None and self.labels.shape != (len(self),):
            self._refuse(f"got labels {self.labels.shape}, expected ({len(self)},)")

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.ids)

    def blocks(self, size: int = 2048) -> Iterator[slice]:
        """Cut the rows into slices, so that dense work stays in bounded memory."""
        for start in range(0, len(self), size):
            yield slice(start, min(start + size, len(self)))

    def split(self, seed: int = 0, shares: tuple[float, float, float] = (0.3, 0.4, 0.3)) -> Split:
        """Deal the rows into fit, choose and check.

        Choose gets the most: thresholds are what few rows cost most. Scores that learn nothing
        give their fit rows to the choice as well, see ``selection``.

        Args:
            seed: Of the permutation.
            shares: Of fit, choose and check; they add up to 1. Copies stay together, so the sets
                may miss them by the size of a group.
        """
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
            message = f"shares: got {shares}, expected three that add up to 1"
            raise ValueError(message)
        _, group, counts = np.unique(self.ids, return_inverse=True, return_counts=True)
        order = np.random.default_rng(seed).permutation(len(counts))
        # The share of rows dealt before the middle of a group decides where all of it goes.
        middle = np.empty(len(counts))
        middle[order] = (np.cumsum(counts[order]) - counts[order] / 2) / max(len(self), 1)
        which = np.searchsorted(np.cumsum(shares)[:2], middle, side="right")[group.ravel()]
        fit, choose, check = (np.flatnonzero(which == k) for k in range(3))
        return Split(fit=fit, choose=choose, check=check)

    def save(self, path: Path) -> None:
        """Write an NPZ without pickle; the file appears whole or not at all."""
        meta = {
            "schema": SCHEMA,
            **({} if self.input is None else {"input": dict(self.input)}),
            "cascade": self.cascade,
            "activation": self.activation,
            "n_classes": self.n_classes,
            "label_tolerance": self.label_tolerance,
            "tiers": [
                {
                    "name": tier.name,
                    "model": tier.model,
                    "digest": tier.digest,
                    "top": isinstance(tier.logits, Top),
                    "cost_ms": {str(size): cost for size, cost in sorted(tier.cost_ms.items())},
                }
                for tier in self.tiers
            ],
        }
        arrays: dict[str, npt.NDArray[Any]] = {"meta": np.array(json.dumps(meta)), "ids": self.ids}
        if self.labels is not None:
            arrays["labels"] = self.labels
        for k, tier in enumerate(self.tiers):
            if isinstance(tier.logits, Top):
                arrays[f"tier{k}_logits"] = tier.logits.logits
                arrays[f"tier{k}_classes"] = tier.logits.classes
                arrays[f"tier{k}_rest"] = tier.logits.rest
            else:
                arrays[f"tier{k}_logits"] = tier.logits
        if any(array.dtype.hasobject for array in arrays.values()):
            self._refuse("ids or labels hold Python objects, expected text or whole numbers")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Records:
        """Read what ``save`` wrote.

        Raises:
            RecordsError: If the file is missing, foreign, torn or of another schema.
        """
        try:
            # Opened here: np.load leaves a torn file open.
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            meta = json.loads(str(arrays["meta"]))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as exc:
            message = f"{path.name}: cannot be read as records: {exc}"
            raise RecordsError(message, hint=_RERECORD) from exc
        table = Table(meta, path.name, RecordsError)
        schema = table.whole("schema")
        if schema != SCHEMA:
            message = f"{path.name}: schema {schema}, this release reads schema {SCHEMA}"
            raise RecordsError(message, hint=_RERECORD)
        try:
            tiers = tuple(_tier(t, arrays, k) for k, t in enumerate(table.tables("tiers")))
            ids = arrays["ids"]
        except KeyError as exc:
            message = f"{path.name}: the array {exc} is missing"
            raise RecordsError(message, hint=_RERECORD) from exc
        records = cls(
            cascade=table.text("cascade"),
            activation=table.choice("activation", ACTIVATIONS),
            n_classes=table.whole("n_classes", low=2),
            label_tolerance=table.whole("label_tolerance", 0),
            tiers=tiers,
            ids=ids,
            labels=arrays.get("labels"),
            input=table.table("input").rest() if table.has("input") else None,
        )
        table.done()
        return records

    def _refuse(self, message: str) -> None:
        text = f"records: {message}"
        raise RecordsError(text, hint=_RERECORD)


def _tier(table: Table, arrays: Mapping[str, npt.NDArray[Any]], k: int) -> TierRecord:
    """Read tier ``k``; a missing array is a ``KeyError``."""
    logits: Floats | Top = arrays[f"tier{k}_logits"]
    if table.flag("top"):
        logits = Top(
            logits=arrays[f"tier{k}_logits"],
            classes=arrays[f"tier{k}_classes"],
            rest=arrays[f"tier{k}_rest"],
        )
    costs = table.table("cost_ms", {}).rest()
    tier = TierRecord(
        name=table.text("name"),
        model=table.text("model"),
        digest=table.text("digest"),
        logits=logits,
        cost_ms={int(size): float(cost) for size, cost in costs.items()},
    )
    table.done()
    return tier
