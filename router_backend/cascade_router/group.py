"""Rows that travel together, and who is told what becomes of them.

Shapes: n rows, C classes; ``...`` is the canonical tensor of one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import CascadeError
from .gate import Ints
from .scores import Floats
from .walk import Walk

__all__ = ["Array", "Group", "Observer", "stack"]

Array = npt.NDArray[Any]


class Observer(Protocol):
    """Is told what becomes of the rows of one walk; called from any thread."""

    def ran(self, tier: int, rows: Ints, scores: Floats) -> None:
        """Rows have run a tier and are settled; (n,) scores, as they decided."""

    def report(self, rows: Ints, error: CascadeError | None) -> None:
        """Rows are decided, or have failed by ``error``; each row is reported once."""


@dataclass(slots=True, eq=False)
class Group:
    """Rows of one walk that wait for the same tier.

    A row is in one group at a time, and who holds the group alone may change the row's walk: a
    queue, a call that is under way, or a thread on its way from one to the next. So walks need no
    lock, and a row is reported once, by whoever holds it last.

    Attributes:
        walk: Where they are.
        rows: (n,) int, their numbers in the walk.
        inputs: (n, ...) their canonical tensor.
        observer: Told what becomes of them.
        until: (n,) float, moments by the queue's clock to answer by; None: no row has one.
        due_s: The first of those moments; inf: there is none.
    """

    walk: Walk
    rows: Ints
    inputs: Array
    observer: Observer
    until: Floats | None = None
    due_s: float = field(init=False, default=math.inf)

    def __post_init__(self) -> None:
        """Find the first moment."""
        if self.until is not None and len(self.until):
            self.due_s = float(self.until.min())

    def part(self, mask: Any) -> Group:
        """Take some of the rows, with a copy of their inputs where ``mask`` is not a slice."""
        until = None if self.until is None else self.until[mask]
        return Group(self.walk, self.rows[mask], self.inputs[mask], self.observer, until)

    def split(self, mask: npt.NDArray[np.bool_]) -> tuple[Group | None, Group | None]:
        """Take the rows in ``mask`` and the others apart; None where that is no row."""
        if not mask.any():
            return None, self
        return (self, None) if mask.all() else (self.part(mask), self.part(~mask))

    def in_time(self, now_s: float, late: list[Group]) -> Group | None:
        """Move the rows whose time is over to ``late``; returns the others, if there are any."""
        if self.due_s > now_s or self.until is None:
            return self
        over, kept = self.split(self.until <= now_s)
        if over is not None:
            late.append(over)
        return kept

    def owned(self) -> Group:
        """Give the same rows with inputs that outlive the request they came in."""
        if self.inputs.flags.owndata:
            return self
        return Group(self.walk, self.rows, self.inputs.copy(), self.observer, self.until)


def stack(arrays: Sequence[Array]) -> Array:
    """Join the rows of several arrays; a single one is not copied."""
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
