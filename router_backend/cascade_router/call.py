"""A call of a tier, and the rows it still has to answer for."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .group import Group
from .outcome import Outcome

__all__ = ["Call", "Part"]

Part = tuple[Group, Any]
"""Rows of a call, and where they are in its logits: a slice, or (n,) int."""


@dataclass(slots=True, eq=False)
class Call:
    """A call of a tier that has a worker.

    Attributes:
        groups: What it was made for.
        parts: The rows it still has to answer for; none before it is started.
        start_s: When it was started; inf: not yet.
        trial: It tries a tier that is left alone.
        over: It took too long: it has failed, whatever it will still say.
        lender: Somebody waits for its outcome, and it is not watched.
        answered: Of a lent call, held until its outcome is there; a lock is quicker than an event.
        outcome: Of a lent call.
    """

    groups: Sequence[Group]
    parts: list[Part] = field(default_factory=list)
    start_s: float = math.inf
    trial: bool = False
    over: bool = False
    lender: bool = False
    answered: threading.Lock | None = None
    outcome: Outcome | None = None

    @property
    def started(self) -> bool:
        """Lent calls are, before a worker takes them."""
        return self.start_s < math.inf

    def start(self, groups: Sequence[Group], now_s: float) -> None:
        """Start for these groups."""
        start = 0
        for group in groups:
            self.parts.append((group, slice(start, start + len(group.rows))))
            start += len(group.rows)
        self.groups, self.start_s = groups, now_s

    def due_s(self, timeout_s: float) -> float:
        """Say the next moment at which rows are late or the call has taken too long."""
        moments = [group.due_s for group, _ in self.parts]
        return min([*moments, math.inf if self.over else self.start_s + timeout_s])

    def pull_all(self) -> list[Group]:
        """Take out all rows."""
        groups = [group for group, _ in self.parts]
        self.parts = []
        return groups

    def pull_late(self, now_s: float, late: list[Group]) -> None:
        """Move the rows whose time is over to ``late``."""
        if any(group.due_s <= now_s for group, _ in self.parts):
            kept = [_in_time(part, now_s, late) for part in self.parts]
            self.parts = [part for part in kept if part is not None]


def _in_time(part: Part, now_s: float, late: list[Group]) -> Part | None:
    """Move the rows of a part whose time is over to ``late``; returns the others."""
    group, place = part
    kept = group.in_time(now_s, late)
    if kept is None or kept is group:
        return None if kept is None else part
    assert group.until is not None
    rows = np.arange(place.start, place.stop) if isinstance(place, slice) else place
    return kept, rows[group.until > now_s]
