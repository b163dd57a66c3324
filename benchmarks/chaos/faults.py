"""The table: every fault there is, as an object."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from .disk import Disk
from .fault import Fault
from .flood import Flood
from .grounds import every_tier_called, pitch
from .judge import Kind
from .kill import Kill, an_expert, the_router, the_server
from .mutated import Mutated
from .policy_file import PolicyFile
from .soak import Soak
from .stop import StopTier
from .swap import Swap

__all__ = ["faults"]


def faults(*, short: bool) -> list[Fault]:
    """List the faults.

    Args:
        short: As ``make test`` does them: fewer times, and nothing is held to a time, since the
            machine may have other things to do; else as ``make chaos`` does.
    """
    timed = not short
    experts = "a process of an expert, each tier in turn"
    kill_expert = Kill(
        name="kill-expert",
        whom=experts,
        pick=an_expert,
        times=3 if short else 20,
        timed=timed,
        ground=every_tier_called,
        must=[Kind.DEGRADED] if timed else [],
    )
    other_policies = [
        replace(
            kill_expert,
            name=f"kill-expert-{how.replace('_', '-')}",
            whom=f'{experts}, on_tier_failure = "{how}"',
            times=6,
            ground=partial(every_tier_called, on_failure=how),
            must=[Kind.REFUSED if how == "fail" else Kind.DEGRADED],
        )
        for how in ("best_so_far", "fail")
    ]
    first_in_router = replace(
        kill_expert,
        name="kill-expert-first-in-router",
        whom=f"{experts}, of which the router runs the first itself",
        times=6,
        ground=pitch,
        pick=partial(an_expert, in_router=frozenset({0})),
    )
    return [
        kill_expert,
        *([] if short else [*other_policies]),
        StopTier(times=3 if short else 6, timed=timed),
        *([] if short else [first_in_router]),
        Kill(
            name="kill-router",
            whom="a process of the router",
            pick=the_router,
            times=1 if short else 20,
            timed=timed,
            must=[Kind.REFUSED],
        ),
        PolicyFile(times=22 if short else 1000, taken_s=3.0 if short else 1.5),
        Kill(
            name="kill-server",
            whom="tritonserver under cascade-serve",
            pick=the_server,
            times=1 if short else 20,
            timed=timed,
            must=[Kind.BROKEN],
        ),
        Flood(seconds=2.0 if short else 30.0, timed=timed),
        Swap(times=2 if short else 50),
        Disk(times=1 if short else 5),
        Mutated(requests=1000 if short else 10_000),
        Soak(requests=5000 if short else 1_000_000),
    ]
