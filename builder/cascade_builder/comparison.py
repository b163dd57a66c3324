"""Whether two forms of one expert answer alike on real rows, and where they part.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError
from cascade_router.scores import probabilities

from .runtime import inner_values

__all__ = ["TOLERANCES", "Comparison", "Tolerance", "compare", "first_divergence", "require"]

Logits = npt.NDArray[np.float32]

_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How far a form may be from what it was made of.

    Attributes:
        label_agreement: Least share of rows with the same label. One row may always differ, but
            where this is 1: there only a tie may.
        score_drift: Largest mean |difference| of the confidences.
        error: Largest root mean square difference of the logits, as a share of their deviation.
        largest_difference: Largest |difference| of two logits, as a share of their deviation.
    """

    label_agreement: float
    score_drift: float
    error: float
    largest_difference: float


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(label_agreement=1.0, score_drift=1e-4, error=1e-4, largest_difference=1e-3),
    "tf32": Tolerance(label_agreement=0.99, score_drift=5e-3, error=1e-2, largest_difference=0.1),
    "fp16": Tolerance(label_agreement=0.99, score_drift=5e-3, error=1e-2, largest_difference=0.1),
    "bf16": Tolerance(label_agreement=0.97, score_drift=0.03, error=0.06, largest_difference=0.8),
    "int8": Tolerance(label_agreement=0.90, score_drift=0.07, error=0.22, largest_difference=4.0),
    "fp8": Tolerance(label_agreement=0.88, score_drift=0.10, error=0.30, largest_difference=4.0),
}
"""By precision. Float32 rounds otherwise only by the order of its sums; fp16 and tf32 keep 11 bits
of every factor, bf16 8, int8 and fp8 fewer still. On the demo experts sound conversions stay below
(int8: error 0.16, drift 0.06) and spoiled ones do not (one scale for a whole layer: 0.6 and 0.12;
ranges from one row: 0.26 and 0.5)."""

_TIE = 2
"""A label may differ where the logits concerned are no further apart than so many times the error
that is tolerated."""

_LEAST_TIE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was compared and found; units as in ``Tolerance``.

    Attributes:
        rows: N.
        label_agreement: Share of rows with the same label, ties not counted as different.
        score_drift: Mean |difference| of the confidences.
        error: Root mean square difference.
        largest_difference: Of all logits.
        tolerance: What they may be.
        finite: No logit is NaN or infinite where its counterpart is not.
    """

    rows: int
    label_agreement: float
    score_drift: float
    error: float
    largest_difference: float
    tolerance: Tolerance
    finite: bool

    @property
    def failures(self) -> list[str]:
        """Say what is outside the tolerance; a figure that is NaN is."""
        if not self.finite:
            return ["logits are not finite"]
        least = self.tolerance.label_agreement
        spared = 1 if least < 1 else 0
        out = []
        if not round(self.rows * (1 - self.label_agreement)) <= max(
            spared, int(self.rows * (1 - least))
        ):
            out.append(f"labels agree on {self.label_agreement:.4f} of rows (least {least})")
        for name in ("score_drift", "error", "largest_difference"):
            value, most = getattr(self, name), getattr(self.tolerance, name)
            if not value <= most:
                out.append(f"{name.replace('_', ' ')} {value:.3g} (most {most:g})")
        return out

    def as_json(self) -> dict[str, Any]:
        """Write with few digits: the last ones differ between processors."""
        figures = {
            name: float(f"{getattr(self, name):.{_DIGITS}g}")
            for name in ("label_agreement", "score_drift", "error", "largest_difference")
        }
        return {"rows": self.rows, **figures, "tolerance": asdict(self.tolerance)}


def compare(
    expected: Logits,
    found: Logits,
    precision: str,
    *,
    activation: str,
    label_tolerance: int = 0,
) -> Comparison:
    """Compare logits.

    Args:
        expected: (N, C) of the form it was made of.
        found: (N, C) of the other.
        precision: One of ``TOLERANCES``, of the lesser form.
        activation: How logits become confidences.
        label_tolerance: Labels this far apart count as the same.
    """
    tolerance = TOLERANCES[precision]
    finite = bool(np.array_equal(np.isfinite(expected), np.isfinite(found)))
    if not finite or expected.shape != found.shape or not np.isfinite(expected).all():
        # Whatever is counted of such logits says nothing.
        return Comparison(
            rows=len(expected),
            label_agreement=0.0,
            score_drift=1.0,
            error=1.0,
            largest_difference=1.0,
            tolerance=tolerance,
            finite=False,
        )
    deviation = max(float(expected.std()), float(np.finfo(np.float32).tiny))
    difference = np.abs(expected - found) / deviation
    scores = [probabilities(each, activation).max(axis=1) for each in (expected, found)]
    apart = np.abs(expected.argmax(axis=1) - found.argmax(axis=1)) > label_tolerance
    rows = np.arange(len(expected))
    lead = expected.max(axis=1) - expected[rows, found.argmax(axis=1)]
    tied = lead <= _TIE * max(tolerance.error, _LEAST_TIE) * deviation
    return Comparison(
        rows=len(expected),
        label_agreement=1.0 - float(np.mean(apart & ~tied)),
        score_drift=float(np.abs(scores[0] - scores[1]).mean()),
        error=float(np.sqrt(np.mean(difference**2))),
        largest_difference=float(difference.max()),
        tolerance=tolerance,
        finite=True,
    )


def require(
    comparison: Comparison,
    *,
    where: str,
    step: str,
    hint: str,
    culprit: Callable[[], str | None] = lambda: None,
) -> None:
    """Refuse a form that does not answer as what it was made of.

    Args:
        comparison: What was found.
        where: What to call the expert.
        step: What was done, such as ``ONNX to int8``.
        hint: What to try.
        culprit: Looks for the layer that diverged first; only asked on a failure.

    Raises:
        BuildError: Names the step, the figures outside their tolerance, and the layer if known.
    """
    failures = comparison.failures
    if not failures:
        return
    layer = culprit()
    message = f"{where}: {step} changed its answers on {comparison.rows} real rows: " + "; ".join(
        failures
    )
    if layer is not None:
        message = f"{message}; {layer}"
    raise BuildError(message, hint=hint)


def first_divergence(before: Any, after: Any, rows: npt.NDArray[Any], precision: str) -> str | None:
    """Name the first tensor of a graph that another form computes otherwise.

    Tensors are found by name, which conversions keep; those of whole numbers are left out.

    Args:
        before: ``onnx.ModelProto`` of the form it was made of.
        after: Of the other.
        rows: (n, ...) canonical rows.
        precision: One of ``TOLERANCES``.

    Returns:
        A clause with the tensor, the operator that makes it, and its error; the worst jump where
        none is outside the tolerance by itself; None if nothing can be compared.
    """
    makers = {name: node for node in before.graph.node for name in node.output}
    made = {name for node in after.graph.node for name in node.output}
    # A tensor between a Q/DQ pair is seen behind it: the pair may do what a Clip did before.
    names = {name: f"{name}_DequantizeLinear_Output" for name in makers}
    names = {name: pair if pair in made else name for name, pair in names.items()}
    common = {name: other for name, other in names.items() if other in made}
    if not common:
        return None
    wanted = inner_values(before, common, rows)
    got = inner_values(after, common.values(), rows)
    errors = {
        name: _error(wanted[name], got[other])
        for name, other in common.items()
        if np.issubdtype(wanted[name].dtype, np.floating)
    }
    if not errors:
        return None
    most = TOLERANCES[precision].error
    name = next((name for name, error in errors.items() if not error <= most), None)
    clause = "the first layer to diverge is"
    if name is None:
        values = list(errors.values())
        name = list(errors)[int(np.argmax(np.diff(values, prepend=0.0)))]
        clause = "the error grows most at"
    node = makers[name]
    return f"{clause} {node.op_type} {node.name or name!r} (error {errors[name]:.3g})"


def _error(wanted: npt.NDArray[Any], got: npt.NDArray[Any]) -> float:
    """Root mean square difference as a share of the deviation; infinite where it says nothing."""
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0 if np.array_equal(a, b, equal_nan=True) else float("inf")
    scale = max(float(a.std()), float(np.abs(a).max()) * 1e-6, 1e-30)
    return float(np.sqrt(np.mean((a - b) ** 2)) / scale)
