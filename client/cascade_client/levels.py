"""The levels of load of a sweep, written ``1,4,16``, ``10:50:10`` or ``1:64:x2``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MOST", "Level", "levels_in"]

MOST = 64
"""Levels that one range may stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load.

    Attributes:
        load: ``concurrency``: a closed loop; ``rate``: an open one.
        value: Requests under way at once, or requests per second at random moments.
        seconds: Length of its measurement.
    """

    load: Literal["concurrency", "rate"]
    value: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.value:g} at once" if self.load == "concurrency" else f"{self.value:g}/s"


def levels_in(text: str, *, whole: bool) -> tuple[float, ...]:
    """Read levels, lowest first.

    Args:
        text: Numbers and ranges with commas between; a range is ``FROM:TO:STEP`` or
            ``FROM:TO:xFACTOR`` and never goes past ``TO``.
        whole: Only whole numbers are levels.

    Raises:
        ValueError: If it is none, or stands for more than `MOST` levels.

    >>> levels_in("1:40:x3,40", whole=True)
    (1.0, 3.0, 9.0, 27.0, 40.0)
    """
    found = sorted({value for part in text.split(",") for value in _part(part.strip())})
    if whole and any(value != int(value) for value in found):
        message = f"got {text!r}, expected whole numbers"
        raise ValueError(message)
    if len(found) > MOST:
        message = f"{text!r} stands for {len(found)} levels, at most {MOST} are measured"
        raise ValueError(message)
    return tuple(found)


def _part(text: str) -> list[float]:
    words = text.split(":")
    if len(words) == 1:
        return [_number(words[0], text)]
    if len(words) != 3:
        message = f"got {text!r}, expected a number, FROM:TO:STEP or FROM:TO:xFACTOR"
        raise ValueError(message)
    low, high = _number(words[0], text), _number(words[1], text)
    step = _number(words[2].removeprefix("x"), text)
    times = words[2].startswith("x")
    if high < low or (times and step <= 1):
        message = f"got {text!r}, expected a range that goes up"
        raise ValueError(message)
    out: list[float] = []
    value = low
    # Past MOST only the refusal is left to be found.
    while value <= high * (1 + 1e-9) and len(out) <= MOST:
        out.append(round(value, 6))
        value = value * step if times else low + step * len(out)
    return out


def _number(word: str, text: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        message = f"got {text!r}, expected positive numbers"
        raise ValueError(message)
    return value
