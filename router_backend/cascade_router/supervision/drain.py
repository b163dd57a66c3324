"""Taking a server out of service without losing a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .triton import Triton

__all__ = ["drain"]

_POLL_S = 0.1


def drain(
    triton: Triton,
    layers: Sequence[Sequence[str]],
    *,
    limit_s: float,
    hurry: Callable[[], bool] = lambda: False,
    gone: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Unload models layer by layer, those first that call others, each when the last is done.

    A model that is unloaded takes nothing more, which its callers are told at once, and finishes
    what it has. tritonserver 2.51 alone, told to stop, lets running gRPC calls fall.

    Args:
        triton: The server.
        layers: Models, ensembles first.
        limit_s: Longest wait in all.
        hurry: Whether to give up now.
        gone: Whether the server has ended: then nobody is left to wait for.
        clock: Seconds, monotonic.
        sleep: Waits.

    Returns:
        Whether everything was finished.
    """
    end = clock() + limit_s
    for layer in layers:
        if hurry():
            return False
        triton.unload(layer)
        while _busy(triton, layer) and not gone():
            if hurry() or clock() >= end:
                return False
            sleep(_POLL_S)
    return True


def _busy(triton: Triton, models: Sequence[str]) -> bool:
    index = triton.index()
    if isinstance(index, str):
        return True  # in a flood it may be too slow to tell, just when requests are under way
    return any(one.model in models and one.state not in ("UNAVAILABLE", "") for one in index)
