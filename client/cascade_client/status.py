"""What a server says about its cascade, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cascade_router.errors import PolicyError, ServerError
from cascade_router.policy import Policy
from cascade_router.strict import Table

from .answer import Names

__all__ = ["Part", "ServedPolicy", "Status", "TierStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPolicy:
    """What the control model tells.

    Attributes:
        policy: In force now.
        default_point: Point of a request that names none; may have been switched since the
            policy was written.
        manifest: What was built, and from what.
        history: Switches so far, oldest first.
        refused: Why the policy file as it lies there is not in force; None: it is.
        labels: Name of each class; empty: the cascade has none.
    """

    policy: Policy
    default_point: str
    manifest: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...] = ()
    refused: str | None = None
    labels: tuple[str, ...] = ()

    @property
    def names(self) -> Names:
        """What answers call classes and tiers."""
        return Names(labels=self.labels, tiers=tuple(tier.name for tier in self.policy.tiers))

    @classmethod
    def from_json(cls, text: bytes) -> ServedPolicy:
        """Read a reply; keys that this release does not know are left alone.

        Raises:
            ServerError: If it is no such reply.
        """
        try:
            table = Table(json.loads(text), "the control model's reply", ServerError)
            policy = Policy.from_json(json.dumps(table.table("policy").rest()))
        except (ValueError, PolicyError) as exc:
            message = f"the control model's reply cannot be read: {exc}"
            raise ServerError(message, hint="are server and client of one release?") from exc
        return cls(
            policy=policy,
            default_point=table.text("default_point"),
            manifest=table.table("manifest", {}).rest(),
            history=tuple(table.items("history", [])),
            refused=table.text("refused") if table.has("refused") else None,
            labels=tuple(str(name) for name in table.items("labels", [])),
        )

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return {
            "default_point": self.default_point,
            "policy": json.loads(self.policy.to_json()),
            "manifest": dict(self.manifest),
            "history": [dict(entry) for entry in self.history],
            "refused": self.refused,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One Triton model the cascade needs.

    Attributes:
        model: Its name.
        role: ``ensemble``, ``preprocess``, ``router``, ``control`` or ``expert``.
        versions: Versions that are loaded, lowest first.
        ready: Whether it serves.
        why: What the server says where it does not; may be empty.
        rows: Rows it answered since it was loaded; None: not known.
    """

    model: str
    role: str
    versions: tuple[str, ...]
    ready: bool
    why: str = ""
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatus:
    """One tier: the expert the policy names and the one that is served.

    Attributes:
        tier: 0 = cheapest.
        name: The expert's.
        model: Triton's name for it.
        digest: Of what the policy was calibrated for.
        cost_ms: Measured milliseconds of one row alone; None: not measured.
    """

    tier: int
    name: str
    model: str
    digest: str
    cost_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A server and its cascade at one moment.

    Attributes:
        url: Where it was asked.
        server: Its name and version.
        cascade: The cascade.
        ready: Every part serves.
        parts: Each model the cascade is made of.
        tiers: Cheapest first; empty where the control model does not serve.
        served: The policy in force; None where the control model does not serve.
    """

    url: str
    server: str
    cascade: str
    ready: bool
    parts: tuple[Part, ...]
    tiers: tuple[TierStatus, ...]
    served: ServedPolicy | None

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        points: list[dict[str, Any]] = []
        if self.served is not None:
            points = [
                {
                    "name": point.name,
                    "default": point.name == self.served.default_point,
                    "certified": point.certificate is not None,
                    "measured": dict(point.measured),
                }
                for point in self.served.policy.points
            ]
        return {
            "url": self.url,
            "server": self.server,
            "cascade": self.cascade,
            "ready": self.ready,
            "default_point": self.served.default_point if self.served else None,
            "parts": [asdict(part) for part in self.parts],
            "tiers": [asdict(tier) for tier in self.tiers],
            "points": points,
        }
