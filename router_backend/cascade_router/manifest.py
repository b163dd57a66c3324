"""What the repository holds, and whether a policy was made for it.

``manifest.json`` is written by the builder, one beside each version of the router. The router reads
from it the digests of the experts, which version of each it calls, and its own options: what
another version says never concerns it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import PolicyError
from .files import read_text
from .policy import Policy

__all__ = ["check_policy", "options_in", "read_manifest", "versions_in"]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json``.

    Args:
        folder: The router's version folder.

    Raises:
        PolicyError: If it is missing or broken.
    """
    path = folder / "manifest.json"
    try:
        manifest: Any = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as exc:
        message = f"manifest.json: cannot be read: {exc}"
        raise PolicyError(message, hint="run `cascade-builder build`") from exc
    if not isinstance(manifest, dict):
        message = f"manifest.json: expected a table, got {type(manifest).__name__}"
        raise PolicyError(message, hint="run `cascade-builder build`")
    return dict(manifest)


def versions_in(manifest: dict[str, Any]) -> dict[str, int]:
    """Say which version of each expert the router calls, by name; none where it does not say."""
    experts = manifest.get("experts", [])
    return {one["name"]: int(one["version"]) for one in experts if "version" in one}


def options_in(manifest: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Give the router's config with the options of this version as its ``parameters``."""
    pinned = {key: {"string_value": text} for key, text in manifest.get("router", {}).items()}
    return {**config, "parameters": {**config.get("parameters", {}), **pinned}}


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
