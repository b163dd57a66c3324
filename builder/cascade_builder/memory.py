"""How much memory there is, how much an expert takes to make, and so who may start now."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "available_bytes", "expected_bytes", "turn"]

_BASE_BYTES = 2**30
_PER_WEIGHT_BYTE = 8
"""Net, traced program, graph, its bytes, sessions of a runtime: copies of the weights."""

_FREE_SHARE = 0.8
_UNKNOWN_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a build may use.

    Attributes:
        jobs: Most experts made at once, >= 1.
        memory_bytes: Most memory that those together are expected to take.
    """

    jobs: int
    memory_bytes: int

    @classmethod
    def usual(cls, jobs: int | None = None, memory_gb: float | None = None) -> Limits:
        """Take what is given; else one job a core, and four fifths of the memory that is free."""
        cores = len(os.sched_getaffinity(0))
        memory = _FREE_SHARE * available_bytes() if memory_gb is None else memory_gb * 2**30
        return cls(jobs=cores if jobs is None else jobs, memory_bytes=int(memory))


def available_bytes(root: Path = Path("/")) -> int:
    """Say how much memory is free: on this machine, or in this container if it has less.

    Args:
        root: Where ``proc`` and ``sys`` lie.
    """
    free = _UNKNOWN_BYTES
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            free = 1024 * int(line.split()[1])
    group = root / "sys/fs/cgroup"
    most, used = (_text(group / name).strip() for name in ("memory.max", "memory.current"))
    if most.isdecimal() and used.isdecimal():
        free = min(free, max(0, int(most) - int(used)))
    return free


def expected_bytes(weights_bytes: int, before: int | None) -> int:
    """Say how much memory the process that makes an expert is expected to take.

    Args:
        weights_bytes: Size of the files it is made from.
        before: What it took last time; None: not known.
    """
    return before or _BASE_BYTES + _PER_WEIGHT_BYTE * weights_bytes


def turn(
    waiting: Sequence[str], running: Sequence[str], needs: Mapping[str, int], limits: Limits
) -> str | None:
    """Say which expert may start now; None: all wait.

    The largest that fits goes first, as it takes longest. One that needs more than there is runs
    alone: waiting would not make it smaller.

    Args:
        waiting: Experts that are not started.
        running: Experts that are under way.
        needs: Bytes that each of both is expected to take.
        limits: What may be used.
    """
    if len(running) >= limits.jobs:
        return None
    free = limits.memory_bytes - sum(needs[name] for name in running)
    for name in sorted(waiting, key=lambda one: -needs[one]):
        if needs[name] <= free or not running:
            return name
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
