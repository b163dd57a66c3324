"""What is told of a server: a line for each thing that is in another state than before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

__all__ = ["News"]


class News:
    """Knows what was told last.

    Args:
        tell: Takes a line.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._told: dict[str, str] = {}

    def announce(self, now: Mapping[str, tuple[str, str]], all_well: str | None) -> None:
        """Tell what has changed; a state that is the same for another reason has not.

        Args:
            now: State of each thing, and why it is in that; the reason's first line is told.
            all_well: Told instead, where nothing was told before; None: not all is well.
        """
        before, self._told = self._told, {name: state for name, (state, _) in now.items()}
        if not before and all_well is not None:
            self._tell(all_well)
            return
        for name, (state, why) in now.items():
            if before.get(name) != state:
                first = why.partition("\n")[0]
                self._tell(f"{name}: {state}" + (f": {first}" if first else ""))
        for name in sorted(set(before) - set(now)):
            self._tell(f"{name}: is no more")
