"""Runs forms on the same rows, by Polygraphy's comparator; imported only where it is at hand.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator
from polygraphy.logger import G_LOGGER

from cascade_builder.runtime import OUTPUT
from cascade_builder.spec import DTYPES, Spec
from cascade_builder.targets.job import Runner
from cascade_router.errors import BuildError, CascadeError

__all__ = ["answers"]

_ANEW = "run `cascade-builder build` again"
_LINE = 300

Logits = npt.NDArray[np.float32]


def answers(
    runs: Mapping[str, Runner], spec: Spec, rows: npt.NDArray[Any], sizes: Sequence[int]
) -> dict[str, list[Logits] | CascadeError]:
    """Run forms of an expert.

    Args:
        runs: The forms by name.
        spec: The cascade.
        rows: (N, ...) canonical rows.
        sizes: Batch sizes to run them in.

    Returns:
        By form, (N, C) logits for each batch size, or why it does not answer.
    """
    if not runs:
        return {}
    G_LOGGER.module_severity = G_LOGGER.CRITICAL  # what matters is raised
    name = spec.input.name
    batches = [{name: rows[i : i + size]} for size in sizes for i in range(0, len(rows), size)]
    called = [_Called(form, run, spec) for form, run in runs.items()]
    results = Comparator.run(called, data_loader=batches)
    out: dict[str, list[Logits] | CascadeError] = {}
    for one, (_, iterations) in zip(called, results.items(), strict=True):
        logits = np.concatenate([np.asarray(each[OUTPUT]) for each in iterations])
        out[one.name] = one.problem or list(logits.reshape(len(sizes), len(rows), -1))
    return out


class _Called(BaseRunner):  # type: ignore[misc]  # Polygraphy is not typed
    """A form as Polygraphy runs it. One that fails answers NaN, so that the others are run."""

    def __init__(self, name: str, run: Runner, spec: Spec) -> None:
        super().__init__(name=name)
        self._run = run
        self._spec = spec
        self.problem: CascadeError | None = None

    def get_input_metadata_impl(self) -> Any:
        form = self._spec.input
        return TensorMetadata().add(form.name, np.dtype(DTYPES[form.dtype]), (None, *form.shape))

    def infer_impl(self, feed_dict: Mapping[str, npt.NDArray[Any]]) -> Any:
        rows = np.ascontiguousarray(feed_dict[self._spec.input.name])
        start = time.perf_counter()
        logits = np.full((len(rows), self._spec.classes), np.nan, dtype=np.float32)
        if self.problem is None:
            try:
                logits = self._answered(rows)
            except CascadeError as exc:
                self.problem = exc
        self.inference_time = time.perf_counter() - start
        return OrderedDict({OUTPUT: logits})

    def _answered(self, rows: npt.NDArray[Any]) -> Logits:
        try:
            logits = np.asarray(self._run(rows), dtype=np.float32)
        except CascadeError:
            raise
        except Exception as exc:  # runtimes have error classes of their own
            text = " ".join(str(exc).split())[:_LINE]
            message = f"{self.name} fails on {len(rows)} rows: {text}"
            raise BuildError(message, hint=_ANEW) from exc
        wanted = (len(rows), self._spec.classes)
        if logits.shape != wanted:
            message = f"{self.name} answers {list(logits.shape)}, expected {list(wanted)}"
            raise BuildError(message, hint=_ANEW)
        return logits
