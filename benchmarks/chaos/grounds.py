"""Where faults are done: cascades that are served, some of real experts, some of null ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import null
from cascade_builder.build import build
from cascade_builder.demo import notes
from cascade_builder.spec import Spec
from cascade_client.calls import Array

from .bad_pictures import png
from .site import Site

__all__ = [
    "CALLS_PER_TIER",
    "WAITING",
    "every_tier_called",
    "nowhere",
    "null_rows",
    "nulls",
    "pictures_of",
    "pitch",
    "short_queues",
]

_BUILD = Path(__file__).parents[2] / "build"
WAITING = 16
"""Requests that may wait for the router, and rows for a tier, where queues are short."""

CALLS_PER_TIER = 2
"""Calls of one tier that one router may have under way."""

_COST_MS = {1: 1.0, 64: 4.0}
"""Said of null experts, so that rows go up to them as to real ones."""


def pitch(scratch: Path, **router: Any) -> Site:
    """Serve the cascade `pitch`: three real experts, light enough for two cores.

    Args:
        scratch: Gets repository and log.
        router: Values of the spec's ``[router]`` that differ from the demo's.
    """
    spec = Spec.find("pitch")
    spec = replace(spec, router=replace(spec.router, **router))
    repository = scratch / "models"
    build(spec, repository, artifacts_folder=_BUILD)
    return Site(
        repository=repository,
        cascade="pitch",
        rows=_frames(),
        log=scratch / "server.log",
        on_failure=spec.router.on_tier_failure,
    )


def every_tier_called(scratch: Path, on_failure: str = "escalate") -> Site:
    """Serve `pitch` so that a process of each expert, the first one's, too, answers requests.

    Args:
        scratch: Gets repository and log.
        on_failure: Its ``on_tier_failure``.
    """
    return pitch(scratch, on_tier_failure=on_failure, runs_first_expert=False)


def short_queues(scratch: Path) -> Site:
    """Serve `pitch` so that a short flood fills every queue.

    Args:
        scratch: Gets repository and log.
    """
    return pitch(
        scratch,
        max_waiting_rows=WAITING,
        max_waiting_requests=WAITING,
        calls_per_tier=CALLS_PER_TIER,
    )


def nulls(scratch: Path) -> Site:
    """Serve null experts: three tiers for tensors, and beside them two for pictures.

    Args:
        scratch: Gets repository and log.
    """
    repository = scratch / "models"
    null.write(repository, null.spec(3), scratch, cost_ms=_COST_MS)
    null.write(repository, null.picture_spec(), scratch, cost_ms=_COST_MS)
    return Site(repository=repository, cascade="null", rows=null_rows(), log=scratch / "server.log")


def pictures_of(site: Site) -> Site:
    """Give the picture cascade that runs beside the null cascade; it needs no start or stop."""
    rng = np.random.default_rng(10)
    pixels = [
        (rng.integers(0, 256, 3) * rng.uniform(0.5, 1, (32, 32, 1))).astype(np.uint8)
        for _ in range(100)
    ]
    return Site(
        repository=site.repository,
        cascade="null_pictures",
        rows=[png(one) for one in pixels],
        canonical=pixels,
        log=site.log,
        ports=site.ports,
    )


@contextmanager
def nowhere(scratch: Path) -> Iterator[Path]:
    """Give an empty folder to a fault that makes its own ground."""
    yield scratch


def null_rows(n: int = 400, seed: int = 8) -> list[Any]:
    """Make rows whose answers all differ, about half of which escalate."""
    rng = np.random.default_rng(seed)
    return list(rng.normal(0.0, 1.5, (n, 4)).astype(np.float32))


def _frames(n: int = 96, seed: int = 6) -> list[Array]:
    """Make rows of the cascade `pitch`: notes in more and more noise, so that each tier has some.

    Returns:
        n rows of (1024,) float32.
    """
    rng = np.random.default_rng(seed)
    clean = notes.rows()
    noise = rng.uniform(0.2, 2.0, n)
    made = [clean[i % len(clean)] + noise[i] * rng.standard_normal(1024) for i in range(n)]
    return [row.astype(np.float32) for row in made]
