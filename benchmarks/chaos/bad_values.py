"""Values that do not belong where they are put, and bytes that were hurt on the way."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["BAD_COMMANDS", "BAD_PARAMETERS", "BAD_SHAPES", "any_of", "hurt"]

Rng = np.random.Generator

BAD_SHAPES: tuple[Any, ...] = (
    *([], [0, 4], [-1, 4], [1, 5], [1, 3], [4], [1, 4, 1], [2, 4], [2**31, 4], [2**62, 4]),
    *([2**63 - 1, 2**63 - 1], [-(2**63), 4], [65, 4], [1] * 400),
)
"""Shapes other than [1, 4]; 64 rows are the most of a batch."""

BAD_PARAMETERS: tuple[tuple[str, Any], ...] = (
    *(("cascade_point", bad) for bad in ("turbo", "", 5, True, 0.5, "x" * 100_000, "\0", "../..")),
    *(("cascade_min_tier", bad) for bad in (-1, 99, 2**62, "zero", "", True, 0.5, "1e3", "٣")),
    *(("cascade_max_tier", bad) for bad in (-1, 99, -(2**62), "None", False, 1e300, "9" * 5000)),
    *(("cascade_efficiency", bad) for bad in ("nan", "inf", -0.1, 1.1, "", True, "half", 2**60)),
    *(("cascade_deadline_ms", bad) for bad in (0, -5, "nan", "inf", "-inf", "soon", True)),
    *((f"cascade_{name}", 1) for name in ("pint", "", "point ", "x" * 10_000)),
)
"""Request parameters that the router refuses, each as bool, integer, number or text."""


BAD_COMMANDS: tuple[bytes | None, ...] = (
    *(b"", b"null", b"[]", b"7", b"{}", b'{"do": 5}', b'{"do": "load"}', b'{"do": "show", "x": 1}'),
    *(b'{"do": "set"}', b'{"do": "set", "point": "../../x"}', b'{"do": "set", "point": []}'),
    *(b"[" * 200_000, b'{"do":' * 50_000, b"1" * 10_000, b"\xff\xfe", b'{"do": "\\ud800"}'),
    b'{"do": "set", "point": "turbo", "who": "' + b"x" * 100_000 + b'"}',
    *(None, None, None, None),
)
"""Commands that the control model refuses; None: a good one, hurt."""


def any_of(rng: Rng, values: Any) -> Any:
    """Draw one of some values."""
    return values[int(rng.integers(len(values)))]


def hurt(rng: Rng, data: bytes) -> bytes:
    """Do to bytes what bad memory, cut connections and fuzzers do."""
    kind = int(rng.integers(6))
    if not data or kind == 0:
        return rng.bytes(int(rng.integers(0, 300)))
    place = int(rng.integers(len(data)))
    if kind == 1:  # cut
        return data[:place]
    if kind == 2:  # longer
        return data + rng.bytes(int(rng.integers(1, 2000)))
    if kind == 3:  # a piece is missing
        return data[:place] + data[place + int(rng.integers(1, 64)) :]
    if kind == 4:  # a piece comes twice
        return data[:place] + data[max(place - 64, 0) :]
    flipped = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        flipped[int(rng.integers(len(flipped)))] ^= 1 << int(rng.integers(8))
    return bytes(flipped)
