"""Whether ONNX Runtime answers as torch does, on real rows.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["TOLERANCE", "Parity", "check"]

TOLERANCE = 1e-3
"""Largest |difference| of two logits taken as equal, as a share of the logits' deviation."""

_SEVERAL = 8
_DIGITS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What was compared and found.

    Attributes:
        rows: N.
        batches: Batch sizes tried.
        label_agreement: Share of rows with the same label.
        max_difference: Largest |difference| of two logits.
        tolerance: What it may be: ``TOLERANCE`` times the deviation of torch's logits.
    """

    rows: int
    batches: tuple[int, ...]
    label_agreement: float
    max_difference: float
    tolerance: float

    def as_json(self) -> dict[str, Any]:
        """Write with few digits: the last ones differ between processors."""
        rounded = {
            "max_difference": _rounded(self.max_difference),
            "tolerance": _rounded(self.tolerance),
        }
        return {**asdict(self), "batches": list(self.batches), **rounded}


def check(
    module: nn.Module,
    run: Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]],
    rows: npt.NDArray[Any],
    *,
    where: str,
) -> Parity:
    """Compare a module with what it was exported to, alone and in batches.

    Args:
        module: Canonical rows to logits.
        run: (n, ...) canonical rows to (n, C) logits.
        rows: (N, ...) canonical rows.
        where: What to call the expert in messages.

    Raises:
        BuildError: If a logit differs by more than the tolerance, a label differs that is not a
            tie within it, or a logit is not finite.
    """
    import torch

    # Torch works with float32 sums of another order, hence a tolerance; labels must not care.
    with torch.inference_mode():
        expected = np.concatenate(
            [module(torch.from_numpy(part)).numpy() for part in _batches(rows, _SEVERAL)]
        )
    sizes = tuple(sorted({1, min(_SEVERAL, len(rows))}))
    tolerance = TOLERANCE * float(expected.std())
    found = [np.concatenate([run(part) for part in _batches(rows, size)]) for size in sizes]
    difference = max(float(np.abs(expected - logits).max()) for logits in found)
    same = np.all([logits.argmax(axis=1) == expected.argmax(axis=1) for logits in found], axis=0)
    parity = Parity(
        rows=len(rows),
        batches=sizes,
        label_agreement=float(same.mean()),
        max_difference=difference,
        tolerance=tolerance,
    )
    top = np.sort(expected, axis=1)[:, -2:]
    tied = top[:, 1] - top[:, 0] <= 2 * tolerance
    # A comparison with NaN is false, so a NaN in either fails here.
    if not (difference <= tolerance and bool(np.all(same | tied))):
        message = (
            f"{where}: ONNX Runtime does not answer as torch does: logits differ by up to "
            f"{difference:.3g} (tolerance {tolerance:.3g}), labels agree on {same.mean():.4f} of "
            f"{len(rows)} rows at batch sizes {', '.join(map(str, sizes))}"
        )
        raise BuildError(message, hint="look for random, training-only or half-precision operators")
    return parity


def _batches(rows: npt.NDArray[Any], size: int) -> list[npt.NDArray[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
