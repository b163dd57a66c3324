"""What the repository holds, and whether a policy was made for it.

``manifest.json`` is written by the builder; the router reads the digests of the experts from it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import PolicyError
from .policy import Policy

__all__ = ["check_policy", "read_manifest"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json``.

    Args:
        folder: The router's version folder.

    Raises:
        PolicyError: If it is missing or broken.
    """
    path = folder / "manifest.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        message = f"manifest.json: cannot be read: {exc}"
        raise PolicyError(message, hint="run `cascade-builder build`") from exc
    return manifest


def check_policy(policy: Policy, manifest: dict[str, Any]) -> None:
    """Refuse a policy that was made for other experts than the repository holds.

    Raises:
        PolicyError: Names the first tier that differs.
    """
    if manifest.get("unfinished"):
        message = "manifest.json: a build of this repository was interrupted"
        raise PolicyError(message, hint="run `cascade-builder build` again: it completes it")
    hint = "run `cascade-builder record` and `cascade-builder calibrate` after rebuilding an expert"
    if policy.cascade != manifest.get("cascade"):
        message = (
            f"policy.json: made for cascade {policy.cascade!r}, not {manifest.get('cascade')!r}"
        )
        raise PolicyError(message, hint=hint)
    built = {expert["name"]: expert["digest"] for expert in manifest.get("experts", [])}
    for tier in policy.tiers:
        if built.get(tier.name) != tier.digest:
            message = (
                f"policy.json: tier {tier.name!r} was calibrated as {tier.digest[:19]}, "
                f"the repository holds {str(built.get(tier.name))[:19]}"
            )
            raise PolicyError(message, hint=hint)
