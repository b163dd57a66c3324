"""What was done to a running cascade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .editions import Edition
from .first_policy import Choice
from .running import Running

__all__ = ["Deployment", "nothing", "report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was done to a running cascade.

    Attributes:
        cascade: Its name.
        url: Of the server.
        action: ``deployed``, ``rolled back`` or ``nothing``.
        router: Version of the router in force now.
        before: Version that was in force; a rollback goes back to it.
        experts: What became of each, by name: ``kept``, ``replaced``, ``added`` or ``removed``.
        versions: Version of each expert in force, by name.
        policy: What became of the policy.
        checked: How many ``experts`` and ``answers`` were checked on golden rows.
        seconds: Spent in all.
    """

    cascade: str
    url: str
    action: str
    router: int
    before: int
    experts: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    policy: str = "kept"
    checked: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return asdict(self)


def nothing(now: Edition, server: Running, seconds: float) -> Deployment:
    """Report that what is served is what the spec asks for."""
    return Deployment(
        cascade=now.cascade,
        url=server.url,
        action="nothing",
        router=now.router,
        before=now.router,
        experts={str(one["name"]): "kept" for one in now.manifest["experts"]},
        versions={str(one["name"]): one["version"] for one in now.manifest["experts"]},
        seconds=round(seconds, 2),
    )


def report(
    old: Edition,
    new: Edition,
    server: Running,
    action: str,
    choice: Choice | None,
    checked: Mapping[str, int],
    seconds: float,
) -> Deployment:
    """Report that one edition took over from another; ``choice`` is None after a rollback."""
    before = {str(one["name"]): one for one in old.manifest["experts"]}
    after = {str(one["name"]): one for one in new.manifest["experts"]}
    experts = {}
    for name in [*after, *(gone for gone in before if gone not in after)]:
        if name not in after:
            experts[name] = "removed"
        elif name not in before:
            experts[name] = "added"
        else:
            same = after[name]["version"] == before[name]["version"]
            experts[name] = "kept" if same else "replaced"
    said = "the one of that edition" if choice is None else f"{choice.action} ({choice.reason})"
    return Deployment(
        cascade=new.cascade,
        url=server.url,
        action=action,
        router=new.router,
        before=old.router,
        experts=experts,
        versions={name: one["version"] for name, one in after.items()},
        policy=said,
        checked=checked,
        seconds=round(seconds, 2),
    )
