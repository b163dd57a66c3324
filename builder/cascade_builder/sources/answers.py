"""Whether something answers as an expert must: (N, C) finite float32, each row on its own.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from cascade_builder.parity import TOLERANCE
from cascade_router.errors import BuildError, CascadeError

__all__ = ["Runner", "check_answers", "check_same"]

_SEVERAL = 8
_DIGITS = 3

Runner = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


def check_answers(
    run: Runner, rows: npt.NDArray[Any], *, classes: int, max_batch: int, where: str
) -> dict[str, Any]:
    """Run rows alone and in batches, where nothing else says what the answers should be.

    Args:
        run: (n, ...) canonical rows to logits.
        rows: (N, ...) canonical rows, N >= 1.
        classes: C.
        max_batch: Most rows in one run.
        where: What to call the expert in messages.

    Returns:
        Figures for ``manifest.json``.

    Raises:
        BuildError: If it fails, answers another shape, a value that is not finite, or a row
            differently in a batch than alone.
    """
    several = min(_SEVERAL, max_batch)
    # Rows are repeated where there are few, so that more than one is run at once.
    rows = np.resize(rows, (max(len(rows), several), *rows.shape[1:]))
    alone, together = (_answers(run, rows, size, classes, where) for size in (1, several))
    difference = float(np.abs(alone - together).max())
    tolerance = TOLERANCE * float(alone.std())
    top = np.sort(alone, axis=1)[:, -2:]
    tied = top[:, 1] - top[:, 0] <= 2 * tolerance
    same = alone.argmax(axis=1) == together.argmax(axis=1)
    if not (difference <= tolerance and bool(np.all(same | tied))):
        message = (
            f"{where}: answers rows otherwise in a batch of {several} than alone: logits differ by "
            f"up to {difference:.3g} (tolerance {tolerance:.3g})"
        )
        _refuse(message, "compute every row from that row alone")
    return {
        "rows": len(rows),
        "batches": sorted({1, several}),
        "label_agreement": float(same.mean()),
        "max_difference": float(f"{difference:.{_DIGITS}g}"),
        "tolerance": float(f"{tolerance:.{_DIGITS}g}"),
    }


def check_same(run: Runner, reference: Runner, rows: npt.NDArray[Any], *, where: str) -> float:
    """Compare what something answers with what it was made from, on all rows at once.

    Args:
        run: (n, ...) canonical rows to logits.
        reference: The same of what it was made from.
        rows: (N, ...) canonical rows, N >= 1.
        where: What to call the expert in messages.

    Returns:
        The largest difference of two logits.

    Raises:
        BuildError: If it is above the tolerance of ``check_answers``.
    """
    expected = np.asarray(reference(rows), dtype=np.float64)
    difference = float(np.abs(np.asarray(run(rows), dtype=np.float64) - expected).max())
    tolerance = TOLERANCE * float(expected.std())
    if not difference <= tolerance:
        message = (
            f"{where}: does not answer as the file it was made from: logits differ by up to "
            f"{difference:.3g} (tolerance {tolerance:.3g})"
        )
        _refuse(message, "report it with the file's operators")
    return float(f"{difference:.{_DIGITS}g}")


def _answers(
    run: Runner, rows: npt.NDArray[Any], size: int, classes: int, where: str
) -> npt.NDArray[np.float64]:
    parts = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        try:
            logits = np.asarray(run(part))
        except CascadeError:
            raise
        except Exception as exc:  # runtimes have error classes of their own
            text = " ".join(str(exc).split())[:300]
            message = f"{where}: fails on {len(part)} rows: {text}"
            hint = "its batch size may be fixed inside: make it anew with a dynamic batch axis"
            raise BuildError(message, hint=hint) from exc
        if logits.shape != (len(part), classes):
            got = list(logits.shape)
            message = (
                f"{where}: answers {got} for {len(part)} rows, expected {[len(part), classes]}"
            )
            _refuse(message, "set `classes`, or name the right output")
        if not bool(np.isfinite(logits).all()):
            message = f"{where}: answers NaN or infinity on real rows"
            _refuse(message, "look for weights that are not finite, or for a precision too low")
        parts.append(logits.astype(np.float64))  # so that no difference overflows
    return np.concatenate(parts)


def _refuse(message: str, hint: str) -> NoReturn:
    raise BuildError(message, hint=hint)
