"""What each request may be answered: the right answer, and what may stand in for it.

Every answer is worked out by ``tests/oracle.py``, the cascade restated the dull way, from logits of
the experts run one row at a time. Rows that lie on a threshold's edge are left out: engines round
by batch size, and such a row may fall either way.

Shapes: K tiers, N rows, C classes; ``...`` is the canonical tensor of one row.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cascade_client.calls import Array
from cascade_client.conversation import infer_parameters

__all__ = [
    "Question",
    "Reply",
    "asked",
    "clear_of_edges",
    "logits_of",
    "questions",
    "read",
    "reply_to",
]

_TOO_CLOSE = 1e-4
_CONFIDENCE = 1e-3
"""Difference of confidence that rounding by batch size can make, and another row's hardly."""

Ask = Mapping[str, Any]
"""``point``, ``min_tier``, ``max_tier`` of a request; absent: the server's choice."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a cascade says about one row."""

    tier: int
    label: int
    confidence: float

    def same(self, other: Reply) -> bool:
        """Say whether two replies are one, up to rounding."""
        near = abs(self.confidence - other.confidence) <= _CONFIDENCE
        return (self.tier, self.label) == (other.tier, other.label) and near


@dataclass(frozen=True, kw_only=True)
class Question:
    """A request of one row.

    Attributes:
        row: (...) canonical tensor, or the encoded picture.
        ask: What is asked for.
        policy: ``policy.json``, parsed.
        logits: (K, C) of the row.
        on_failure: The spec's ``on_tier_failure``.
    """

    row: Any
    ask: Ask
    policy: Mapping[str, Any]
    logits: Array
    on_failure: str

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        """Request parameters, the deadline apart."""
        return infer_parameters(**self.ask)

    @cached_property
    def right(self) -> Reply:
        """The full cascade's answer."""
        return reply_to(self.policy, self.logits, self.ask)

    def cut(self, reply: Reply, tiers: frozenset[int] = frozenset()) -> bool:
        """Say whether a deadline may have cut the walk short to this reply.

        Args:
            reply: The answer so far.
            tiers: Some of them may have failed before, which sends rows further up.
        """
        low, high = self.ask.get("min_tier", 0), self.ask.get("max_tier", len(self.logits) - 1)
        if not low <= reply.tier <= high:
            return False
        alone = {"min_tier": reply.tier, "max_tier": reply.tier}
        so_far = reply_to(self.policy, self.logits, {**self.ask, **alone})
        ends = [self.right.tier, *(one[0] for one in self._without_some(tiers) if one)]
        return reply.tier < max(ends) and reply.same(so_far)

    def degraded(self, reply: Reply, tiers: frozenset[int]) -> bool:
        """Say whether a reply is what the policy makes of a failure of some of these tiers."""
        found = self._without_some(tiers)
        return any(one and one[3] and reply.same(Reply(*one[:3])) for one in found)

    def refused(self, tiers: frozenset[int]) -> bool:
        """Say whether a failure of some of these tiers leaves no answer."""
        return any(one is None for one in self._without_some(tiers))

    def kept_waiting(self, tiers: frozenset[int]) -> bool:
        """Say whether a failure of some of these tiers may keep the row without an answer.

        The first tier to see it fails or is handed what others should have answered; one that
        fails further up finds an answer there already.
        """
        name = self.ask.get("point") or self.policy["default"]
        gates = next(p["gates"] for p in self.policy["points"] if p["name"] == name)
        low, high = self.ask.get("min_tier", 0), self.ask.get("max_tier", len(self.logits) - 1)
        first = next((k for k in range(low, high + 1) if not gates[k].get("off", False)), high)
        return any(tier <= first for tier in tiers)

    def _without_some(self, tiers: frozenset[int]) -> list[tuple[int, int, float, bool] | None]:
        """Answer while one, two ... of these tiers fail, as ``answer_without`` of the oracle."""
        sizes = range(1, len(tiers) + 1)
        failures = itertools.chain(*(itertools.combinations(sorted(tiers), n) for n in sizes))
        ask = (self.ask.get("point"), self.ask.get("min_tier", 0), self.ask.get("max_tier"))
        return [
            _ORACLE.answer_without(self.policy, self.logits, failed, self.on_failure, *ask)
            for failed in failures
        ]


def _oracle() -> ModuleType:
    """Load ``tests/oracle.py``: the tests are no package, and no benchmark's to restate."""
    path = Path(__file__).parents[2] / "tests" / "oracle.py"
    spec = importlib.util.spec_from_file_location("oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_ORACLE = _oracle()


def logits_of(paths: Sequence[Path], rows: Sequence[Array]) -> Array:
    """Run ONNX files one row at a time.

    Args:
        paths: K files.
        rows: N arrays (...).

    Returns:
        (K, N, C) float32.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(path, options) for path in paths]
    (name,) = {one.get_inputs()[0].name for one in sessions}
    return np.array([[s.run(None, {name: row[None]})[0][0] for row in rows] for s in sessions])


def reply_to(policy: Mapping[str, Any], logits: Array, ask: Ask) -> Reply:
    """Answer one row as the whole cascade does.

    Args:
        policy: ``policy.json``, parsed.
        logits: (K, C) of the row.
        ask: What the request asks for.
    """
    tier, label, confidence = _ORACLE.answer(
        policy, logits, ask.get("point"), ask.get("min_tier", 0), ask.get("max_tier")
    )
    return Reply(tier, label, confidence)


def asked(n_tiers: int, points: Sequence[str]) -> list[Ask]:
    """Name the ways to ask: plainly (often), by each point, of each tier alone, or upwards."""
    plain: list[Ask] = [{}] * (len(points) + n_tiers)
    by_point: list[Ask] = [{"point": name} for name in points]
    from_tier: list[Ask] = [{"min_tier": k} for k in range(1, n_tiers)]
    only_tier: list[Ask] = [{"min_tier": k, "max_tier": k} for k in range(n_tiers)]
    return [*plain, *by_point, *from_tier, *only_tier]


def questions(
    policies: Sequence[Mapping[str, Any]],
    rows: Sequence[Any],
    logits: Array,
    asks: Sequence[Ask],
    *,
    on_failure: str = "escalate",
    seed: int = 0,
) -> list[list[Question]]:
    """Ask each row in one way, drawn at random.

    Args:
        policies: ``policy.json``, parsed: one, or several that take turns.
        rows: N rows as they are sent.
        logits: (K, N, C).
        asks: What may be asked for.
        on_failure: The spec's ``on_tier_failure``.
        seed: Of the draw.

    Returns:
        N questions under each policy, the same rows and ways.
    """
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(asks), len(rows)).tolist()
    return [
        [
            Question(row=row, ask=asks[way], policy=one, logits=logits[:, i], on_failure=on_failure)
            for i, (row, way) in enumerate(zip(rows, picked, strict=True))
        ]
        for one in policies
    ]


def clear_of_edges(asked_under: Sequence[Sequence[Question]]) -> list[list[Question]]:
    """Leave out what lies on the edge of a threshold under any of several policies."""
    kept = [
        i
        for i, ways in enumerate(zip(*asked_under, strict=True))
        if not any(map(_on_an_edge, ways))
    ]
    return [[some[i] for i in kept] for some in asked_under]


def _on_an_edge(question: Question) -> bool:
    policy, logits = question.policy, question.logits
    for point in policy["points"]:
        for k, gate in enumerate(point["gates"]):
            how = policy["tiers"][k]["score"]
            score = _ORACLE.gate_score(how, logits[k].tolist(), policy["activation"])
            if abs(score - gate.get("threshold", -np.inf)) < _TOO_CLOSE:
                return True
    return False


def read(path: Path) -> dict[str, Any]:
    """Read a ``policy.json`` as plain JSON."""
    values: dict[str, Any] = json.loads(path.read_text())
    return values
