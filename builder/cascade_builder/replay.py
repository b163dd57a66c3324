"""Rows on their way through recorded scores: the decisions of the gates without the logits.

``cascade_router.walk`` routes rows by logits; choosing among thousands of points cannot afford to
turn logits into scores again each time. Decisions are the walk's own (``GateTable``); a test holds
both to the same answers. Shapes: n rows, K tiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from cascade_router.gate import DECIDED, Gate, GateTable
from cascade_router.scores import Floats, Score

from .cost_tables import Costs
from .scored import Scored

__all__ = ["Reading", "Replay", "View", "gates_from", "replay"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the logits of all tiers are read.

    Attributes:
        scores: K scores.
        answer: One of ``policy.ANSWERS``.
        trained: It holds something learned from the fit rows that may be over-fitted to them.
    """

    scores: tuple[Score, ...]
    answer: str = "last"
    trained: bool = False

    @property
    def name(self) -> str:
        """Say it in a few words: kind of score per tier, answer rule, temperatures."""
        kinds = [score.kind for score in self.scores[:-1]] or [self.scores[-1].kind]
        text = kinds[0] if len(set(kinds)) == 1 else "/".join(kinds)
        if any(score.temperature != 1.0 for score in self.scores):
            text += " with temperatures"
        return text if self.answer == "last" else f"{text}, mean answer"


@dataclass(frozen=True, kw_only=True)
class View:
    """Some rows of the records under one reading.

    Attributes:
        scored: All rows.
        reading: How they are read.
        rows: (n,) int64.
    """

    scored: Scored
    reading: Reading
    rows: npt.NDArray[np.int64]
    _right: dict[tuple[int, ...], Bools] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def score(self, tier: int) -> Floats:
        """Give (n,) float64 scores at a tier."""
        return np.asarray(self.scored.score(tier, self.reading.scores[tier])[self.rows])

    def right(self, tiers: Sequence[int]) -> Bools:
        """Say which rows are right when exactly these tiers ran: (n,) bool."""
        key = tuple(tiers) if self.reading.answer == "mean" else tuple(tiers[-1:])
        if key not in self._right:
            right = self.scored.right(key, self.reading.scores, self.reading.answer)
            self._right[key] = right[self.rows]
        return self._right[key]

    @property
    def reference(self) -> Bools:
        """(n,) bool, rows the last tier alone answers right."""
        return self.right([self.scored.n_tiers - 1])

    def take(self, rows: npt.NDArray[np.int64]) -> View:
        """See only some of these rows, given by their position here."""
        return replace(self, rows=self.rows[rows], _right={})

    def at(self, rows: npt.NDArray[np.int64]) -> View:
        """See other rows of the records."""
        return replace(self, rows=rows, _right={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What one operating point does to some rows.

    Attributes:
        exit_tier: (n,) int64, tier that answers.
        ran: (K, n) bool, tiers that ran.
        right: (n,) bool, answered right.
        tier_ms: (K,) float64, milliseconds per row at each tier at the batch it sees.
    """

    exit_tier: npt.NDArray[np.int64]
    ran: Bools
    right: Bools
    tier_ms: Floats

    @property
    def spent_ms(self) -> Floats:
        """(n,) float64, milliseconds spent on each row."""
        return np.asarray(self.tier_ms @ self.ran)

    @property
    def cost_ms(self) -> float:
        """Mean milliseconds per row."""
        return float(self.tier_ms @ self.ran.mean(axis=1)) if self.ran.size else 0.0

    @property
    def exit_shares(self) -> list[float]:
        """Share of rows each tier answers."""
        counts = np.bincount(self.exit_tier, minlength=len(self.ran))
        return [float(c) / max(len(self.exit_tier), 1) for c in counts]


def gates_from(
    tiers: Sequence[int], thresholds: Sequence[float] | Floats, n_tiers: int
) -> tuple[Gate, ...]:
    """Make K gates that run exactly these tiers, the last of them answering all that reach it."""
    gates = [Gate(off=True)] * n_tiers
    for tier, threshold in zip(tiers, thresholds, strict=False):
        gates[tier] = Gate(threshold=float(threshold))
    gates[tiers[-1]] = Gate()
    return tuple(gates)


def replay(view: View, gates: Sequence[Gate], costs: Costs) -> Replay:
    """Send rows through the gates of one point."""
    n, n_tiers = len(view), len(gates)
    table, zeros = GateTable([gates]), np.zeros(n, dtype=np.int64)
    bound = np.full(n, n_tiers - 1)
    at = np.asarray(table.first(zeros, zeros, bound), dtype=np.int64)
    exit_tier = np.full(n, -1, dtype=np.int64)
    ran = np.zeros((n_tiers, n), dtype=bool)
    for tier in range(n_tiers):
        rows = np.flatnonzero(at == tier)
        if len(rows):
            ran[tier, rows] = True
            exit_tier[rows] = tier
            some = zeros[: len(rows)]
            at[rows] = table.next(tier, view.score(tier)[rows], some, bound[rows])
    if (at != DECIDED).any():
        message = "replay: rows are left undecided"
        raise RuntimeError(message)
    tier_ms = [costs.per_row(k, float(ran[k].mean())) if n else 0.0 for k in range(n_tiers)]
    return Replay(
        exit_tier=exit_tier,
        ran=ran,
        right=_right(view, exit_tier, ran),
        tier_ms=np.array(tier_ms),
    )


def _right(view: View, exit_tier: npt.NDArray[np.int64], ran: Bools) -> Bools:
    """Look up which rows are right, by the set of tiers each ran."""
    right = np.zeros(len(view), dtype=bool)
    codes = (1 << np.arange(len(ran))) @ ran
    for code in np.unique(codes).tolist():
        rows = codes == code
        tiers = [k for k in range(len(ran)) if code >> k & 1]
        right[rows] = view.right(tiers)[rows]
    return right
