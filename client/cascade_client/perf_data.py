"""What perf_analyzer reads: rows for ``--input-data``, moments for ``--request-intervals``."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .calls import Array, Port, digest_of
from .tensors import raw_from_array

__all__ = ["entry", "write_gaps", "write_rows"]

_ENOUGH_ENTRIES = 1000
_MOST_BYTES = 64 * 2**20
"""Of rows that are written again; pictures may be large."""


def entry(port: Port, row: Array) -> dict[str, Any]:
    """Write one row: the tensor's bytes, as Triton reads them, in base 64.

    Args:
        port: The input.
        row: Of its shape; the bytes of a picture carry their length before them, as on the wire.
    """
    content = {"b64": base64.b64encode(raw_from_array(row)).decode()}
    return {port.name: {"content": content, "shape": list(row.shape)}}


def write_rows(
    path: Path, port: Port, rows: Sequence[Array], *, most: int, seed: int
) -> tuple[int, str]:
    """Write rows in a seeded order; perf_analyzer sends them from the first, over and over.

    Of N threads it gives each every Nth entry. Where N divides the number of entries a thread sees
    the same few rows for ever, and one with hard rows sends fewer of them than there are. So the
    number of entries is a prime: every thread comes by every row. Few rows are written several
    times, each time in another order, so that the one that makes it prime weighs little.

    Args:
        path: The file.
        port: The input.
        rows: At least one.
        most: Rows to keep at most, drawn by the seed.
        seed: Of the order.

    Returns:
        Rows kept, and the digest of what was written.
    """
    rng = np.random.default_rng(seed)
    kept = rng.permutation(len(rows))[:most]
    texts = [json.dumps(entry(port, rows[i])) for i in kept.tolist()]
    room = _MOST_BYTES // (sum(map(len, texts)) // len(texts))
    n_entries = _prime_from(max(len(texts), min(_ENOUGH_ENTRIES, room)))
    order = [i for _ in range(-(-n_entries // len(texts))) for i in rng.permutation(len(texts))]
    content = ",".join(texts[i] for i in order[:n_entries])
    path.write_text(f'{{"data": [{content}]}}')
    return len(texts), digest_of(path.read_bytes())


def _prime_from(n: int) -> int:
    """Find the first prime that is not below n."""
    n = max(n, 2)
    while any(n % k == 0 for k in range(2, math.isqrt(n) + 1)):
        n += 1
    return n


def write_gaps(path: Path, rate: float, seconds: float, seed: int) -> None:
    """Write random moments: gaps in whole microseconds, a line each; sent over and over.

    The gaps are exponential and scaled so that exactly ``rate * seconds`` requests fall into
    ``seconds``: a Poisson stream of that many. perf_analyzer's own ``--request-distribution
    poisson`` has one fixed seed, with which the first 100 requests come a fifth too late.

    Args:
        path: The file.
        rate: Requests per second.
        seconds: After which the moments repeat.
        seed: Of the gaps.
    """
    n = max(round(rate * seconds), 1)
    moments = np.random.default_rng(seed).exponential(size=n).cumsum()
    ends = np.rint(moments * (1e6 * n / rate / moments[-1])).astype(np.int64)
    path.write_text("".join(f"{gap}\n" for gap in np.diff(ends, prepend=0).tolist()))
