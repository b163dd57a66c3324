"""Runs every tier over rows, a chunk at a time.

Shapes: N rows, n of one chunk, C classes.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError, RecordsError
from cascade_router.scores import Floats

from . import rows as canonical_rows
from .data import DataSet
from .record_shards import Shard, Shards
from .records import Top
from .served import Served, open_expert
from .spec import DTYPES, Spec

__all__ = ["Progress", "Work"]

_CHUNK_BATCHES = 8
_CHUNK_BYTES = 64 * 2**20
"""A chunk is this many batches, or fewer where canonical rows are large."""

_MOST_WORKERS = 8
_SKIP = "repair or remove it, or leave such rows out with --skip-bad"

Progress = Callable[[int, int, str], None]
"""Takes what is done, out of how much, and what it is."""


class Work:
    """Runs the tiers over chunks of rows.

    Args:
        spec: The cascade.
        experts: What serves it.
        data: The rows.
        batch: Rows per run of an expert.
        top: Keep this many logits of each row; None: all.
        skip_bad: Leave broken rows out instead of stopping at the first.

    Attributes:
        runs: The experts by name, with the threads they are served with.
    """

    def __init__(
        self,
        spec: Spec,
        experts: Sequence[Served],
        data: DataSet,
        *,
        batch: int,
        top: int | None,
        skip_bad: bool,
    ) -> None:
        self.runs = {one.expert.name: open_expert(one, spec) for one in experts}
        self._spec = spec
        self._data = data
        # An array in a file is canonical already, whatever clients send.
        self._form = replace(spec.input, kind=data.kind)
        self._skip_bad = skip_bad
        self._batch = batch
        self._top = top
        threads = max(one.expert.threads for one in experts)
        self._workers = min(_MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // threads))

    def run(
        self, wanted: npt.NDArray[np.int64], done: int, shards: Shards, progress: Progress
    ) -> None:
        """Record, shard by shard.

        Args:
            wanted: (N,) int, numbers of rows in the data set, ascending.
            done: How many of them lie in shards already.
            shards: Takes what is recorded.
            progress: Takes rows done.

        Raises:
            RecordsError: If a row is broken and broken rows are not to be left out.
            BuildError: If an expert fails.
        """
        row_bytes = math.prod(self._form.shape) * np.dtype(DTYPES[self._form.dtype]).itemsize
        batches = max(1, min(_CHUNK_BATCHES, _CHUNK_BYTES // (row_bytes * self._batch)))
        chunk = batches * self._batch
        progress(done, len(wanted), "recording")
        # Many runs at once, each with the threads it is served with: answers as served, sooner.
        pool = ThreadPoolExecutor(self._workers)
        try:
            for start in range(done, len(wanted), chunk):
                stop = min(start + chunk, len(wanted))
                shards.write(start, stop, self._shard(wanted[start:stop], pool))
                progress(stop, len(wanted), "recording")
        finally:
            pool.shutdown(cancel_futures=True)

    def sample(self, numbers: npt.NDArray[np.int64], n: int) -> npt.NDArray[Any]:
        """Read the first ``n`` of rows known to be good."""
        return np.stack(
            [self._canonical(number, self._data.row(number)) for number in numbers[:n].tolist()]
        )

    def _shard(self, numbers: npt.NDArray[np.int64], pool: ThreadPoolExecutor) -> Shard:
        bad: list[tuple[str, str]] = []
        read = list(pool.map(self._checked, *self._read(numbers)))
        found = [(number, row) for number, row in read if isinstance(row, np.ndarray)]
        for number, row in read:
            if isinstance(row, RecordsError):
                self._leave_out(number, row.message, row.hint, bad)
        kept = np.array([number for number, _ in found], dtype=np.int64)
        if not found:
            return Shard(numbers=kept, ids=kept, tiers=self._no_tiers(), bad=bad)
        rows = np.stack([row for _, row in found])
        tiers = [self._logits(name, rows, pool) for name in self.runs]
        good = np.ones(len(kept), dtype=bool)
        for name, logits in zip(self.runs, tiers, strict=True):
            for i in np.flatnonzero(good & ~np.isfinite(logits).all(axis=1)).tolist():
                good[i] = False
                why = f"expert {name!r} answers NaN or infinity"
                self._leave_out(int(kept[i]), why, None, bad)
        ids = np.array(list(pool.map(_digest, rows)), dtype=np.int64)
        return Shard(
            numbers=kept[good], ids=ids[good], tiers=[self._kept(t[good]) for t in tiers], bad=bad
        )

    def _read(self, numbers: npt.NDArray[np.int64]) -> tuple[list[int], list[Any]]:
        """Read in order: one file may hold all rows."""
        values: list[Any] = []
        for number in numbers.tolist():
            try:
                values.append(self._data.row(number))
            except RecordsError as exc:
                values.append(exc)
        return numbers.tolist(), values

    def _checked(self, number: int, value: Any) -> tuple[int, Any]:
        """Make a row canonical, or hand back what is wrong with it."""
        if isinstance(value, RecordsError):
            return number, value
        try:
            return number, self._canonical(number, value)
        except RecordsError as exc:
            return number, exc

    def _canonical(self, number: int, value: Any) -> npt.NDArray[Any]:
        try:
            return np.asarray(canonical_rows.canonical([value], self._form)[0])
        except RecordsError as exc:
            # The row is named by its file, not by its place in a batch of one.
            raise RecordsError(exc.message.removeprefix("rows[0]: "), hint=exc.hint) from exc

    def _logits(self, name: str, rows: npt.NDArray[Any], pool: ThreadPoolExecutor) -> Floats:
        batches = [rows[i : i + self._batch] for i in range(0, len(rows), self._batch)]
        try:
            logits = np.concatenate(list(pool.map(self.runs[name], batches)))
        except Exception as exc:  # ONNX Runtime's error classes share no base but Exception
            message = f"expert {name!r}: cannot run: {exc}"
            raise BuildError(
                message, hint="build again, or lower --batch if memory ran out"
            ) from exc
        expected = (len(rows), self._spec.classes)
        if logits.shape != expected:
            message = f"expert {name!r}: got logits {logits.shape}, expected {expected}"
            raise BuildError(message, hint="`classes` of the spec must be what the experts answer")
        return logits

    def _kept(self, logits: Floats) -> Floats | Top:
        return logits if self._top is None else Top.of(logits, self._top)

    def _no_tiers(self) -> list[Floats | Top]:
        none = np.empty((0, self._spec.classes), dtype=np.float32)
        return [self._kept(none) for _ in self.runs]

    def _leave_out(
        self, number: int, why: str, hint: str | None, bad: list[tuple[str, str]]
    ) -> None:
        name = self._data.name(number)
        if not self._skip_bad:
            message = f"{name}: {why}"
            raise RecordsError(message, hint=f"{hint}; or {_SKIP}" if hint else _SKIP)
        bad.append((name, why))


def _digest(row: npt.NDArray[Any]) -> int:
    """Name a row by what it holds, so that copies are found whatever their files are called."""
    digest = hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
