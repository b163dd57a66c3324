"""What a cascade said about one row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cascade_router.walk import ABSTAINED, CUT_SHORT, TIER_FAILED

from .calls import Array

__all__ = ["Answer", "Names", "Ranked", "answers_from_arrays"]

_DEGRADED = {0: None, TIER_FAILED: "tier", CUT_SHORT: "deadline"}


class Ranked(NamedTuple):
    """One class and its probability."""

    label: int
    name: str | None
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the numbers in an answer are called.

    Attributes:
        labels: Name of each class; empty: not known.
        tiers: Name of the expert at each tier; empty: not known.
    """

    labels: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ()

    def label(self, i: int) -> str | None:
        """Name a class."""
        return self.labels[i] if 0 <= i < len(self.labels) else None

    def tier(self, k: int) -> str:
        """Name a tier's expert."""
        return self.tiers[k] if 0 <= k < len(self.tiers) else f"tier {k}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The cascade's answer for one row.

    Attributes:
        label: The class; -1 where the cascade abstains.
        label_name: Its name; None where the server knows none.
        confidence: Probability of the label, 0 to 1.
        tier: The tier that answered, 0 = cheapest.
        tier_name: Its expert.
        degraded: Why this is not what the policy would have answered: ``tier``, one failed or was
            left alone because it had; ``deadline``, it cut the answer short. None: it is.
        scores: (C,) float32, probabilities of all classes; None where not asked for.
        ms: Milliseconds from sending the row's request to having the reply. Rows that went in
            one request share it.
        names: What classes and tiers are called.
    """

    label: int
    label_name: str | None
    confidence: float
    tier: int
    tier_name: str
    scores: npt.NDArray[np.float32] | None = field(compare=False, repr=False)
    ms: float
    degraded: str | None = None
    names: Names = field(default_factory=Names, compare=False, repr=False)

    @property
    def abstained(self) -> bool:
        """No expert was sure enough: the last one's score is below the cascade's floor."""
        return self.label == ABSTAINED

    def top(self, k: int) -> list[Ranked]:
        """Rank the k most probable classes, ties by class number.

        Args:
            k: How many, at least 1; at most C are returned.

        Raises:
            ValueError: If the scores were not asked for, or k < 1.
        """
        if k < 1:
            message = f"top: got k={k}, expected at least 1"
            raise ValueError(message)
        if self.scores is None:
            message = "top: this answer has no scores; infer with scores=True"
            raise ValueError(message)
        order = np.argsort(-self.scores, kind="stable")[:k].tolist()
        return [Ranked(i, self.names.label(i), float(self.scores[i])) for i in order]

    def as_json(self, top: int | None = None) -> dict[str, Any]:
        """Write for machines; ``top`` adds the most probable classes."""
        out: dict[str, Any] = {
            "label": self.label,
            "label_name": self.label_name,
            "abstained": self.abstained,
            "confidence": self.confidence,
            "tier": self.tier,
            "tier_name": self.tier_name,
            "degraded": self.degraded,
            "ms": round(self.ms, 3),
        }
        if top is not None:
            out["top"] = [ranked._asdict() for ranked in self.top(top)]
        return out


def answers_from_arrays(
    arrays: Mapping[str, Array], n_rows: int, *, ms: float, names: Names
) -> list[Answer]:
    """Read the outputs of a cascade.

    Args:
        arrays: ``LABEL``, ``CONFIDENCE``, ``TIER`` (N, 1) and, where asked for, ``DEGRADED`` (N, 1)
            and ``SCORES`` (N, C).
        n_rows: N, as sent.
        ms: What the request took.
        names: What classes and tiers are called.

    Raises:
        ValueError: If an output is missing or has another number of rows.
    """
    labels, confidences, tiers = (
        _column(arrays, name, n_rows) for name in ("LABEL", "CONFIDENCE", "TIER")
    )
    degraded: Sequence[Any] | Array = [0] * n_rows
    if "DEGRADED" in arrays:
        degraded = _column(arrays, "DEGRADED", n_rows)
    scores: Sequence[Any] | Array = [None] * n_rows
    if "SCORES" in arrays:
        scores = arrays["SCORES"].reshape(n_rows, -1)  # raises where rows are missing
    return [
        Answer(
            label=int(labels[i]),
            label_name=names.label(int(labels[i])),
            confidence=float(confidences[i]),
            tier=int(tiers[i]),
            tier_name=names.tier(int(tiers[i])),
            scores=scores[i],
            ms=ms,
            degraded=_DEGRADED.get(int(degraded[i])),
            names=names,
        )
        for i in range(n_rows)
    ]


def _column(arrays: Mapping[str, Array], name: str, n_rows: int) -> Array:
    if name not in arrays:
        message = f"output {name} is missing; got {', '.join(arrays) or 'none'}"
        raise ValueError(message)
    if arrays[name].size != n_rows:
        message = f"output {name}: got {arrays[name].size} values for {n_rows} rows"
        raise ValueError(message)
    return arrays[name].ravel()
