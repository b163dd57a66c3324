"""What came of a call of a tier, and who is to blame where it failed.

A tier that cannot run one row fails the whole call. So a call that failed is followed by a row of
zeros: where the tier runs that, it lives, and its rows are run apart until the bad ones are found.
Neither they nor their batch mates count against the tier. Where the error says that the tier is
down, the call is made once more instead: another instance of it may live.

Shapes: n rows, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import BusyError, CascadeError, DeadError, RequestError, TierError
from .group import Array
from .scores import Floats

__all__ = ["Outcome", "outcome_of"]

Run = Callable[[Array], Floats]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Logits, or why there are none.

    Attributes:
        logits: (n, C) float; None: no row has any.
        error: Of the rows without logits. ``TierError``: the tier failed. Another one: it lives,
            and does not run these rows. None: each row has its logits.
        failed: (n,) bool, which rows have none; None: all, or none.
    """

    logits: Floats | None
    error: CascadeError | None = None
    failed: npt.NDArray[np.bool_] | None = None

    @property
    def tier_failed(self) -> bool:
        """Tell a tier that failed from rows that it does not run."""
        return isinstance(self.error, TierError)


def outcome_of(run: Run, rows: Array, n_classes: int) -> Outcome:
    """Run rows; where that fails, find out whether the tier or some of the rows are to blame.

    Args:
        run: (n, ...) rows -> (n, C) logits; raises ``CascadeError`` when the tier does not answer.
        rows: (n, ...), n > 0.
        n_classes: C.
    """
    try:
        return Outcome(_run(run, rows, n_classes))
    except (BusyError, DeadError) as error:
        return Outcome(None, error)
    except CascadeError as error:
        if not _lives(run, rows, n_classes):
            return Outcome(None, error)
    return _apart(run, rows, n_classes)


def _run(run: Run, rows: Array, n_classes: int) -> Floats:
    try:
        return _checked(run, rows, n_classes)
    except DeadError:
        return _checked(run, rows, n_classes)


def _checked(run: Run, rows: Array, n_classes: int) -> Floats:
    expected = (len(rows), n_classes)
    try:
        logits = run(rows)
    except CascadeError:
        raise
    except Exception as exc:  # a fault of ours must not leave rows hanging
        _log.exception("fault in the router")
        message = "fault in the router, see the server's log"
        raise TierError(message) from exc
    if logits.shape != expected:
        message = f"logits: got shape {logits.shape}, expected {expected}"
        raise TierError(message, hint="run `cascade-builder build`")
    return logits


def _lives(run: Run, rows: Array, n_classes: int) -> bool:
    try:
        _checked(run, np.zeros_like(rows[:1]), n_classes)
    except BusyError:
        return True
    except CascadeError:
        return False
    return True


def _apart(run: Run, rows: Array, n_classes: int) -> Outcome:
    """Halve what fails, down to single rows."""
    logits = np.full((len(rows), n_classes), np.nan, dtype=np.float32)
    failed = np.zeros(len(rows), dtype=bool)
    why: CascadeError | None = None
    todo = [(0, len(rows))]
    while todo:
        start, end = todo.pop()
        try:
            logits[start:end] = _run(run, rows[start:end], n_classes)
        except CascadeError as error:
            why = why if isinstance(why, DeadError) else error
            if end - start == 1 or isinstance(error, BusyError):
                failed[start:end] = True  # smaller calls would find the same full queue
            else:
                middle = (start + end) // 2
                todo += [(middle, end), (start, middle)]
    if why is None or not failed.any():
        return Outcome(logits)
    # It may have died in between.
    if not isinstance(why, BusyError | DeadError) and _lives(run, rows, n_classes):
        message = f"a row of this request cannot be run: {why.message}"
        why = RequestError(message, hint=why.hint)
    return Outcome(logits, why, failed)
