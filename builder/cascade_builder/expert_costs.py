"""What the built experts of a cascade cost, remembered until one of them changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from . import targets
from .artifacts import Task, json_of, written
from .cost import check_order, measure
from .manifest import Built
from .sources import ServedSource
from .sources.answers import Runner
from .spec import Spec

__all__ = ["costs", "runner_of"]

_BATCH = 8
_BUDGET_S = 2.0


def costs(
    path: Path,
    spec: Spec,
    target: str,
    tasks: Sequence[Task],
    built: Sequence[Built],
    rows: Callable[[], npt.NDArray[Any]],
    *,
    tell: Callable[[str], None],
    clock: Callable[[], float],
) -> dict[str, dict[int, float]]:
    """Say the cost of each expert that can run here; all are measured anew if one changed.

    Measured in one go they are comparable: a machine's speed varies from hour to hour.

    Args:
        path: Where they are remembered.
        spec: The cascade.
        target: What runs the experts.
        tasks: One per expert, in the order of the tiers.
        built: What came of them.
        rows: Gives canonical rows.
        tell: Takes progress.
        clock: Seconds.

    Returns:
        Milliseconds per batch by batch size, by name of the expert.

    Raises:
        SpecError: If the tiers are not ordered cheap to costly.
    """
    wanted = {
        task.expert.name: {"key": task.key, "threads": task.expert.threads, "target": target}
        for task in tasks
    }
    known = json_of(path)
    if known.get("experts") != wanted:
        runs = {
            one.expert.name: run
            for one in built
            if (run := runner_of(one, spec, target)) is not None
        }
        tell("measuring the experts")
        measured = _measured(runs, rows, min(_BATCH, spec.max_batch), clock) if runs else {}
        check_order(measured)
        known = {"experts": wanted, "cost_ms": measured}
        if len(runs) == len(built):  # else a server that is up next time has its say
            written(path, json.dumps(known, indent=2).encode())
    found: Mapping[str, Mapping[str, float]] = known["cost_ms"]
    return {
        name: {int(size): float(ms) for size, ms in sizes.items()} for name, sizes in found.items()
    }


def runner_of(built: Built, spec: Spec, target: str) -> Runner | None:
    """Open a built expert as it is served; None where it cannot run on this machine."""
    source = built.expert.source
    if isinstance(source, ServedSource):
        from .sources.remote import remote_runner, why_not

        assert built.served is not None
        if why_not(built.served, source.server) is not None:
            return None
        return remote_runner(built.served, source.server, spec.input.dtype)
    return targets.runner(built.files, built.expert, target)


def _measured(
    runs: Mapping[str, Runner],
    rows: Callable[[], npt.NDArray[Any]],
    batch: int,
    clock: Callable[[], float],
) -> dict[str, dict[int, float]]:
    return measure(runs, rows(), sorted({1, batch}), budget_s=_BUDGET_S, clock=clock)
