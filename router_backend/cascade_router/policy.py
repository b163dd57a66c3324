"""``policy.json``: the tiers, the operating points and where they come from.

A policy is immutable. Whoever wants another one reads another one and swaps the reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from .errors import PolicyError, RequestError
from .files import read_text
from .gate import Gate, GateTable
from .scores import ACTIVATIONS, Score
from .strict import Table, suggestion

__all__ = ["ANSWERS", "NAME", "SCHEMA", "OperatingPoint", "Policy", "Tier"]

SCHEMA = 1
"""Schema number written; a policy with another one is refused by name."""

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""What a cascade, an expert and an operating point may be called (they become folders)."""

ANSWERS = ["last", "mean"]
"""Who answers a row: the last tier that ran, or the mean probability of all that ran."""


def _no_number(name: str) -> NoReturn:
    """Refuse what Python reads as a number though JSON has none of that name."""
    message = f"{name} is no number"
    raise ValueError(message)


def _costs(table: Table) -> dict[int, float]:
    """Take measured milliseconds by batch size."""
    values = table.rest()
    given = Table(values, table.where, PolicyError)
    costs = {}
    for size in values:
        if not re.fullmatch("[1-9][0-9]{0,8}", size):
            message = f"{table.where}: {size[:20]!r} is no batch size"
            raise PolicyError(message, hint="run `cascade-builder calibrate`")
        costs[int(size)] = given.number(size, low=0.0)
    return costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One expert at its place.

    Attributes:
        name: The expert's name in ``cascade.toml``.
        model: The Triton model that runs it.
        digest: ``sha256:...`` of what the model runs; the policy holds for this and no other.
        score: How its gate reads it.
        cost_ms: Measured milliseconds per batch by batch size; empty: not measured.
    """

    name: str
    model: str
    digest: str
    score: Score = field(default_factory=Score)
    cost_ms: Mapping[int, float] = field(default_factory=dict)

    def cost_per_row_ms(self, batch: float) -> float:
        """Interpolate the measured cost of one row when ``batch`` rows run together.

        Args:
            batch: Mean batch size, > 0; sizes outside the measured ones take the nearest.

        Raises:
            PolicyError: If the cost was never measured.
        """
        if not self.cost_ms:
            message = f"policy.json: tier {self.name!r} has no measured cost"
            raise PolicyError(message, hint="run `cascade-builder record`, then `calibrate`")
        sizes = sorted(self.cost_ms)
        per_row = [self.cost_ms[size] / size for size in sizes]
        return float(np.interp(np.log(batch), np.log(sizes), per_row))

    @classmethod
    def from_table(cls, table: Table) -> Tier:
        """Read from a table of ``policy.json``."""
        tier = cls(
            name=table.text("name"),
            model=table.text("model"),
            digest=table.text("digest"),
            score=Score.from_table(table.table("score", {})),
            cost_ms=_costs(table.table("cost_ms", {})),
        )
        table.done()
        return tier

    def as_json(self) -> dict[str, object]:
        """Write what ``from_table`` reads."""
        return {
            "name": self.name,
            "model": self.model,
            "digest": self.digest,
            "score": self.score.as_json(),
            "cost_ms": {str(size): cost for size, cost in sorted(self.cost_ms.items())},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A named vector of gates with what was measured and promised for it.

    Attributes:
        name: What a request asks for in ``cascade_point``.
        gates: One per tier; the last one that is on lets every row exit.
        measured: Figures on the rows it was chosen on, such as ``agreement`` and ``cost_ms``.
        certificate: The promise (promise, bound, level, rows, method); None: uncertified.
    """

    name: str
    gates: tuple[Gate, ...]
    measured: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None

    @classmethod
    def from_table(cls, table: Table) -> OperatingPoint:
        """Read from a table of ``policy.json``."""
        point = cls(
            name=table.text("name"),
            gates=tuple(Gate.from_table(gate) for gate in table.tables("gates")),
            measured=table.table("measured", {}).rest(),
            certificate=table.table("certificate").rest() if table.has("certificate") else None,
        )
        table.done()
        return point

    def as_json(self) -> dict[str, object]:
        """Write what ``from_table`` reads."""
        certificate = None if self.certificate is None else dict(self.certificate)
        return {
            "name": self.name,
            "gates": [gate.as_json() for gate in self.gates],
            "measured": dict(self.measured),
            "certificate": certificate,
        }


@dataclass(frozen=True, kw_only=True)
class Policy:
    """All that the router decides by.

    Attributes:
        cascade: Name of the cascade.
        activation: One of ``scores.ACTIVATIONS``.
        n_classes: C, at least 2.
        answer: One of ``ANSWERS``.
        label_tolerance: Labels this far apart count as the same (ordered classes); 0: equal only.
        tiers: K tiers, cheapest first.
        points: The ladder, cheapest first; names are unique.
        default: Point of a request that names none.
        provenance: Who made it, when, from what.
    """

    cascade: str
    activation: str
    n_classes: int
    tiers: tuple[Tier, ...]
    points: tuple[OperatingPoint, ...]
    default: str
    answer: str = "last"
    label_tolerance: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a policy that cannot route."""
        if not self.tiers or not self.points:
            self._refuse("needs at least one tier and one operating point")
        for kind, names in (
            ("tier", [t.name for t in self.tiers]),
            ("operating point", [p.name for p in self.points]),
        ):
            if len(set(names)) != len(names):
                self._refuse(f"two {kind}s share a name in {names}")
        for point in self.points:
            self._check(point)
        if self.default not in self.point_names:
            self._refuse(
                f"default {self.default!r} is no operating point; there are {self.point_names}"
            )

    @cached_property
    def point_names(self) -> list[str]:
        """Names of the operating points, cheapest first."""
        return [point.name for point in self.points]

    @cached_property
    def certified(self) -> list[int]:
        """Indices of the operating points that hold a certificate, cheapest first."""
        return [i for i, point in enumerate(self.points) if point.certificate is not None]

    @cached_property
    def gates(self) -> GateTable:
        """The gates of all points as arrays."""
        return GateTable([point.gates for point in self.points])

    def index(self, name: str) -> int:
        """Find an operating point.

        Raises:
            RequestError: If there is none of that name.
        """
        try:
            return self.point_names.index(name)
        except ValueError:
            message = (
                f"cascade_point: operating point {name!r} is unknown; "
                f"this policy has {', '.join(self.point_names)}"
            )
            raise RequestError(message, hint=suggestion(name, self.point_names)) from None

    def same(self, labels: Any, others: Any) -> Any:
        """Say where labels count as the same.

        Args:
            labels: (...,) int.
            others: (...,) int.

        Returns:
            (...,) bool.
        """
        return np.abs(np.asarray(labels) - np.asarray(others)) <= self.label_tolerance

    @classmethod
    def from_json(cls, text: str, where: str = "policy.json") -> Policy:
        """Parse and check.

        Raises:
            PolicyError: If it is no JSON, has an unknown key or another schema, or cannot route.
        """
        try:
            values = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as exc:
            message = f"{where}: not JSON: {exc}"
            raise PolicyError(message, hint="restore it, or run `cascade-builder build`") from exc
        table = Table(values, where, PolicyError)
        schema = table.whole("schema")
        if schema != SCHEMA:
            message = f"{where}: schema {schema}, this router reads schema {SCHEMA}"
            raise PolicyError(message, hint="build the repository with this release")
        policy = cls(
            cascade=table.text("cascade"),
            activation=table.choice("activation", ACTIVATIONS),
            n_classes=table.whole("n_classes", low=2),
            answer=table.choice("answer", ANSWERS, "last"),
            label_tolerance=table.whole("label_tolerance", 0),
            tiers=tuple(Tier.from_table(tier) for tier in table.tables("tiers")),
            points=tuple(OperatingPoint.from_table(point) for point in table.tables("points")),
            default=table.text("default"),
            provenance=table.table("provenance", {}).rest(),
        )
        table.done()
        return policy

    @classmethod
    def read(cls, path: Path) -> Policy:
        """Read from a file.

        Raises:
            PolicyError: As ``from_json``, or when the file cannot be read.
        """
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError) as exc:
            message = f"{path.name}: cannot be read: {exc}"
            raise PolicyError(message, hint="run `cascade-builder build`") from exc
        return cls.from_json(text, path.name)

    def to_json(self) -> str:
        """Write what ``from_json`` reads; equal policies give equal text."""
        values = {
            "schema": SCHEMA,
            "cascade": self.cascade,
            "activation": self.activation,
            "n_classes": self.n_classes,
            "answer": self.answer,
            "label_tolerance": self.label_tolerance,
            "default": self.default,
            "tiers": [tier.as_json() for tier in self.tiers],
            "points": [point.as_json() for point in self.points],
            "provenance": dict(self.provenance),
        }
        return json.dumps(values, indent=2, allow_nan=False) + "\n"

    def _check(self, point: OperatingPoint) -> None:
        if NAME.fullmatch(point.name) is None:
            self._refuse(f"operating point {point.name!r} is no name ({NAME.pattern})")
        if len(point.gates) != len(self.tiers):
            n = len(point.gates)
            self._refuse(f"point {point.name!r} has {n} gates for {len(self.tiers)} tiers")
        on = [k for k, gate in enumerate(point.gates) if not gate.off]
        if not on:
            self._refuse(f"point {point.name!r} switches every tier off")
        if point.gates[on[-1]].threshold > float("-inf"):
            self._refuse(f"point {point.name!r}: its last tier must let every row exit")
        for k, gate in enumerate(point.gates):
            if gate.skip_to is not None and not k < gate.skip_to < len(self.tiers):
                self._refuse(f"point {point.name!r}: tier {k} cannot skip to {gate.skip_to}")

    def _refuse(self, message: str) -> None:
        where = f"policy.json: {message}"
        raise PolicyError(where, hint="run `cascade-builder calibrate`")
