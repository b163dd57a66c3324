"""What a server's processes hold, over time."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil

from .site import Site

__all__ = ["Held", "Sampler", "held"]

SHARED = "shared memory"
"""Name under which all regions of the stubs together are given."""

Held = Mapping[str, int]
"""Resident bytes by process, and bytes of ``SHARED``."""


def held(site: Site) -> Held:
    """Look at a server once; a process that has just gone is left out."""
    found: dict[str, int] = {}
    for name, process in site.family().items():
        try:
            found[name] = int(process.memory_info().rss)
        except psutil.Error:
            continue
    return found | {SHARED: sum(_blocks(region) for region in site.regions())}


@dataclass
class Sampler:
    """Looks at a server again and again; a context manager.

    Attributes:
        site: The server.
        period_s: Seconds between two looks.
        moments: Seconds since the first look.
        samples: What was seen.
    """

    site: Site
    period_s: float = 1.0
    moments: list[float] = field(default_factory=list)
    samples: list[Held] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Sampler:
        """Start."""
        self._thread = threading.Thread(target=self._work, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def slopes(self, progress: Sequence[float], from_share: float = 0.5) -> dict[str, float]:
        """Fit a line through each process' memory, the warm-up left out.

        Args:
            progress: Requests ended at each moment, in millions.
            from_share: Where the warm-up ends, as a share of the requests.

        Returns:
            MiB per million requests, by process.
        """
        from scipy.stats import linregress

        start = from_share * progress[-1]
        kept = [i for i, done in enumerate(progress) if done >= start]
        names = set.intersection(*(set(self.samples[i]) for i in kept))
        x = [progress[i] for i in kept]
        return {
            name: round(
                float(linregress(x, [self.samples[i][name] / 2**20 for i in kept]).slope), 3
            )
            for name in sorted(names)
        }

    def _work(self) -> None:
        start = time.monotonic()
        while not self._stop.wait(self.period_s):
            self.samples.append(held(self.site))
            self.moments.append(time.monotonic() - start)


def _blocks(path: Path) -> int:
    """Say what a file in memory really takes: a region is as long as it may ever become."""
    try:
        return 512 * path.stat().st_blocks
    except OSError:
        return 0
