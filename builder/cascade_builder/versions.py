"""Which version of every model of a cascade is in force, and configs that say so.

A model's folder may hold several versions; its config names those that Triton loads. The ensemble's
step names the router's version that answers clients, and the manifest beside that names the version
of every expert it calls. A build puts what changed in the place of what is in force; a deployment
lays it beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cascade_router.errors import PolicyError
from cascade_router.manifest import read_manifest, versions_in
from cascade_router.versions import FIRST, version_in_force

if TYPE_CHECKING:
    from .triton_config import ModelConfig

__all__ = ["Versions", "changed_answers", "pinned", "serving"]

_SPEED = ("instance_group", "dynamic_batching", "model_warmup", "optimization", "version_policy")
_SPEED_PARAMETERS = {
    *("intra_op_threads", "niceness"),
    *("intra_op_thread_count", "inter_op_thread_count"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """One version of a router and of what it calls.

    Attributes:
        router: Of the router.
        experts: Of each expert, by its name; one that is not named was never replaced.
    """

    router: int = FIRST
    experts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def in_force(cls, repository: Path, cascade: str) -> Versions:
        """Read what a repository says; ``FIRST`` of everything where it says nothing."""
        return cls.with_router(repository, cascade, version_in_force(repository, cascade))

    @classmethod
    def with_router(cls, repository: Path, cascade: str, version: int) -> Versions:
        """Read which experts a version of the router calls."""
        try:
            manifest = read_manifest(repository / f"{cascade}_router" / str(version))
            return cls(router=version, experts=versions_in(manifest))
        except (PolicyError, AttributeError, KeyError, TypeError, ValueError):
            return cls(router=version)  # a broken manifest is written anew by the next build

    def of(self, expert: str) -> int:
        """Say an expert's version."""
        return self.experts.get(expert, FIRST)


def serving(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """Give a config that serves these versions and no other that lies beside them."""
    out = type(config)()
    out.CopyFrom(config)
    out.version_policy.Clear()
    out.version_policy.specific.versions.extend(sorted(versions))
    return out


def pinned(config: ModelConfig, model: str, version: int) -> ModelConfig:
    """Give an ensemble's config whose step of this model calls this version."""
    out = type(config)()
    out.CopyFrom(config)
    for step in out.ensemble_scheduling.step:
        if step.model_name == model:
            step.model_version = version
    return out


def changed_answers(now: ModelConfig, wanted: ModelConfig) -> list[str]:
    """Name what of a model's config decides answers and differs between two configs.

    Both versions of a model run under one config while one takes over, so what decides answers must
    be the same; what decides speed may differ.
    """
    return _differences(_said(now), _said(wanted))


def _said(config: ModelConfig) -> ModelConfig:
    out = type(config)()
    out.CopyFrom(config)
    for name in _SPEED:
        out.ClearField(name)
    for key in [key for key in out.parameters if key in _SPEED_PARAMETERS]:
        del out.parameters[key]
    for step in out.ensemble_scheduling.step:
        step.model_version = -1
    return out


def _differences(one: ModelConfig, other: ModelConfig) -> list[str]:
    fields = [field.name for field in one.DESCRIPTOR.fields]
    return [name for name in fields if getattr(one, name) != getattr(other, name)]
