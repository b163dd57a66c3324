"""Which models of a server belong to a cascade."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cascade_router.errors import RequestError

from .calls import IndexEntry

__all__ = ["fixed_roles", "roles_in", "unknown"]


def fixed_roles(cascade: str) -> dict[str, str]:
    """Name the models that every cascade may have, but for its experts, and their roles."""
    return {cascade: "ensemble"} | {
        f"{cascade}_{role}": role for role in ("preprocess", "router", "control")
    }


def roles_in(
    cascade: str, entries: Sequence[IndexEntry], experts: Sequence[str] | None = None
) -> dict[str, str]:
    """Give the models of a cascade their roles, the ensemble first, experts last.

    Args:
        cascade: Its name.
        entries: What the server has.
        experts: Models that its policy names; None: not known, then whatever has its prefix, which
            may be one that a deployment tries, or of another cascade.
    """
    models = {entry.name for entry in entries}
    found = {model: role for model, role in fixed_roles(cascade).items() if model in models}
    if experts is None:
        known = f"{cascade}_router" in found
        experts = [m for m in models - set(found) if known and m.startswith(f"{cascade}_")]
    return found | dict.fromkeys(sorted(experts), "expert")


def unknown(model: str, entries: Sequence[IndexEntry]) -> RequestError:
    """Say that a server has no such model, and what it has."""
    models = sorted({entry.name for entry in entries})
    cascades = [m for m in models if f"{m}_router" in models]
    near = difflib.get_close_matches(model, cascades or models, n=1)
    listed = f"cascades: {', '.join(cascades)}" if cascades else f"models: {', '.join(models)}"
    return RequestError(
        f"the server has no {model!r}; it has {listed if models else 'no models at all'}",
        hint=f"did you mean {near[0]!r}?" if near else "name one of them with --cascade",
    )
