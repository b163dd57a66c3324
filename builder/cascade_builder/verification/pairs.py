"""Compares each form of an expert with the one that it was made of.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_builder.comparison import Comparison, compare, first_divergence, require
from cascade_builder.served import Served
from cascade_builder.spec import Spec
from cascade_router.errors import BuildError, CascadeError

from .forms import Form
from .report import DIFFERS, NOT_CHECKED, SAME, Step

__all__ = ["Pairs"]

_ROWS_FOR_LAYERS = 8


class Pairs:
    """Compares the forms of one expert two by two.

    Args:
        spec: The cascade.
        served: The expert in the repository.
        found: By form, (N, C) logits for each batch size, or why it does not answer; forms that
            were not run are missing.
        rows: (N, ...) canonical rows that they were given.
    """

    def __init__(
        self,
        spec: Spec,
        served: Served,
        found: Mapping[str, list[npt.NDArray[np.float32]] | CascadeError],
        rows: npt.NDArray[Any],
    ) -> None:
        self._spec = spec
        self._served = served
        self._found = dict(found)
        self._rows = rows

    def steps(self, forms: Sequence[Form]) -> list[Step]:
        """Compare each form with the last before it that answers."""
        reference = forms[0]
        out = [self._alone(reference)] if reference.first else []
        for form in forms[1:]:
            if form.same_as in self._found:
                self._found[form.name] = self._found[form.same_as]
            out.append(self._step(reference, form))
            if self._answers(form) and not form.aside:
                reference = form
        return out

    def _answers(self, form: Form) -> bool:
        return not isinstance(self._found.get(form.name), CascadeError | None)

    def _alone(self, form: Form) -> Step:
        """Compare what a form answers row by row and in batches, where it is made of nothing."""
        step = Step(before=f"{form.name}, row by row", after="in batches", outcome=NOT_CHECKED)
        found = self._found.get(form.name)
        if found is None:
            return step.told(NOT_CHECKED, why=form.why)
        if isinstance(found, CascadeError):
            return self._failed(step, found)
        comparison = self._compared(found[0], found[-1], "fp32")
        return self._judged(step, [comparison], "compute every row from that row alone", form, form)

    def _step(self, before: Form, after: Form) -> Step:
        """Compare two forms."""
        step = Step(before=before.name, after=after.name, outcome=NOT_CHECKED)
        if after.same_as is not None:
            return step.told(SAME, why="the same file, byte for byte")
        wanted, got = self._found.get(before.name), self._found.get(after.name)
        if got is None:
            return step.told(NOT_CHECKED, why=after.why)
        if isinstance(got, CascadeError):
            return self._failed(step, got)
        if wanted is None:
            return step.told(NOT_CHECKED, why=before.why)
        if isinstance(wanted, CascadeError):
            return step.told(NOT_CHECKED, why=f"{before.name}: {wanted.message}")
        tolerance = self._tolerance(before, after)
        found = [self._compared(a, b, tolerance) for a, b in zip(wanted, got, strict=True)]
        return self._judged(step, found, after.hint, before, after)

    def _failed(self, step: Step, error: CascadeError) -> Step:
        message = f"{_where(self._served)}: {error.message}"
        return step.told(DIFFERS, why=message, hint=error.hint)

    def _tolerance(self, before: Form, after: Form) -> str:
        """Name the tolerance: of the expert's precision where that was lowered in between."""
        precision = self._served.expert.precision
        if after.exact:
            return "fp32"
        if before.lowered:
            # Two runs of one file: they differ by the order of sums and what that rounds to.
            return "fp32" if precision == "fp32" else "fp16"
        return precision

    def _compared(
        self, wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32], precision: str
    ) -> Comparison:
        return compare(
            wanted,
            got,
            precision,
            activation=self._spec.activation,
            label_tolerance=self._spec.label_tolerance,
        )

    def _judged(
        self, step: Step, found: list[Comparison], hint: str, before: Form, after: Form
    ) -> Step:
        """Take the worst of several batch sizes."""
        worst = max(found, key=lambda one: (bool(one.failures), one.error))
        try:
            require(
                worst,
                where=_where(self._served),
                step=f"{step.before} to {step.after}",
                hint=hint,
                culprit=lambda: self._layer(before, after),
            )
        except BuildError as exc:
            return step.told(DIFFERS, comparison=worst, why=exc.message, hint=exc.hint)
        return step.told(SAME, comparison=worst)

    def _layer(self, before: Form, after: Form) -> str | None:
        """Name the first layer that two graphs compute otherwise."""
        if before.graph is None or after.graph is None or before.graph == after.graph:
            return None
        import onnx

        old, new = onnx.load(before.graph), onnx.load(after.graph)
        rows = self._rows[:_ROWS_FOR_LAYERS]
        return first_divergence(old, new, rows, self._tolerance(before, after))


def _where(served: Served) -> str:
    return f"expert {served.expert.name!r}"
