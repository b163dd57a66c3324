"""The first ``policy.json``: thresholds of the spec, promising nothing, until `calibrate` does.

A policy that is already there stays if it holds for the built experts: calibrating again costs
hours, building costs seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cascade_router.errors import PolicyError
from cascade_router.gate import Gate
from cascade_router.policy import OperatingPoint, Policy, Tier

from .spec import Spec

__all__ = ["Choice", "choose", "first_policy"]

_MADE_BY = "cascade-builder build"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which policy the repository gets.

    Attributes:
        text: The new ``policy.json``.
        old: What ``policy.json.old`` gets; None: nothing is put aside.
        action: ``kept``, ``written`` or ``replaced``.
        reason: Why.
    """

    text: str
    old: str | None
    action: str
    reason: str


def first_policy(spec: Spec, digests: Sequence[str]) -> Policy:
    """Make the uncertified policy of a spec.

    Args:
        spec: The cascade.
        digests: ``sha256:...`` of each expert, in the order of the tiers.
    """
    tiers = tuple(
        Tier(name=expert.name, model=spec.model(expert.name), digest=digest)
        for expert, digest in zip(spec.experts, digests, strict=True)
    )
    points = tuple(
        OperatingPoint(
            name=point.name,
            gates=(*(Gate(threshold=value) for value in point.thresholds), Gate()),
        )
        for point in spec.points
    )
    return Policy(
        cascade=spec.name,
        activation=spec.activation,
        n_classes=spec.classes,
        label_tolerance=spec.label_tolerance,
        tiers=tiers,
        points=points,
        default=spec.default,
        provenance={"made_by": _MADE_BY, "certified": False},
    )


def choose(existing: str | None, new: Policy, *, same_input: bool = True) -> Choice:
    """Keep the policy that is there if it holds, else put it aside.

    Args:
        existing: Text of the ``policy.json`` that is there; None: there is none.
        new: What the spec asks for.
        same_input: Rows are made canonical as when the policy that is there was made.
    """
    text = new.to_json()
    if existing is None:
        return Choice(text=text, old=None, action="written", reason="there was none")
    if existing == text:
        return Choice(text=text, old=None, action="kept", reason="nothing changed")
    why = _why_not(existing, new) if same_input else "the old one was made for another input"
    if why is None:
        reason = "it holds for these experts"
        return Choice(text=existing, old=None, action="kept", reason=reason)
    return Choice(text=text, old=existing, action="replaced", reason=why)


def _why_not(existing: str, new: Policy) -> str | None:
    """Say why a policy cannot stay; None if it can."""
    try:
        old = Policy.from_json(existing)
    except PolicyError as exc:
        return f"the old one is unusable: {exc.message}"
    for key in ("cascade", "activation", "n_classes", "label_tolerance"):
        if getattr(old, key) != getattr(new, key):
            return f"the old one was made for {key} {getattr(old, key)!r}"
    if [tier.name for tier in old.tiers] != [tier.name for tier in new.tiers]:
        return f"the old one was made for tiers {', '.join(tier.name for tier in old.tiers)}"
    for before, after in zip(old.tiers, new.tiers, strict=True):
        if before.digest != after.digest:
            return f"the old one was made for another {after.name!r}"
    if old.provenance.get("made_by") == _MADE_BY:
        return "the points of the spec changed"
    return None
