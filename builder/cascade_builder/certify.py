"""Finite-sample promises about operating points, from rows nothing was chosen on.

A loss is a whole number per row: 1 where the cascade does worse than the last tier alone, -1 where
it does better (only with labels), 0 else. Its mean over the traffic the rows stand for is the drop
that is promised. Shapes: n check rows.

Methods: exact binomial (Clopper and Pearson 1934) for losses in {0, 1}; betting (Waudby-Smith and
Ramdas 2024) for signed ones; split fixed sequence Learn-then-Test (Angelopoulos et al. 2021) over
candidates whose order was fixed on other rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.scores import Floats

__all__ = [
    "BETTING",
    "BINOMIAL",
    "betting_bound",
    "betting_p",
    "binomial_bound",
    "binomial_p",
    "bound",
    "fixed_sequence",
    "p_value",
    "rows_needed",
]

Losses = npt.NDArray[np.integer[Any]]

BINOMIAL = "exact binomial"
BETTING = "betting on the signed loss"

_MOST_ROWS = 20_000_000
_TRIED_ROWS = 200_000
_TRIES = 9
"""Orders tried: the betting bound depends on the order of the rows."""

_BOLDEST = 0.75
"""Share of the largest bet that cannot lose everything on one row."""


def binomial_p(losses: int, rows: int, drop: float) -> float:
    """Say how likely so few losses are if the true share of losses were ``drop`` or more.

    Args:
        losses: Rows lost, a count.
        rows: n.
        drop: Promise to test, in [0, 1].

    Returns:
        p-value of "the share of losses exceeds ``drop``"; 1 without rows.

    Example:
        >>> round(binomial_p(0, 299, 0.01), 4)
        0.0495
    """
    from scipy.stats import binom

    if rows == 0 or drop <= 0:
        return 1.0
    return float(binom.cdf(losses, rows, min(drop, 1.0)))


def binomial_bound(losses: int, rows: int, delta: float) -> float:
    """Give the least share of losses that can be promised at level 1 - delta."""
    from scipy.stats import beta

    if losses >= rows:
        return 1.0
    return float(beta.ppf(1 - delta, losses + 1, rows - losses))


def betting_p(losses: Losses, drop: float, delta: float) -> float:
    """Bet against "the mean signed loss exceeds ``drop``"; the winnings bound its p-value.

    Args:
        losses: (n,) int in {-1, 0, 1}, in an order that is random and was fixed beforehand.
        drop: Promise to test, in (-1, 1).
        delta: Level the bets are sized for; any value keeps the p-value valid.

    Returns:
        1 / the highest capital (Ville's inequality), at most 1.
    """
    x = (np.asarray(losses, dtype=np.float64) + 1) / 2
    m = (drop + 1) / 2
    if not len(x) or m <= 0:
        return 1.0
    # Above 1 / (1 - m) one lost row would ruin; below, a longer way costs too much.
    bets = np.minimum(_bets(x, delta), _BOLDEST / max(1 - m, 1e-9))
    capital = np.cumsum(np.log1p(-bets * (x - m)))
    return math.exp(-max(float(capital.max()), 0.0))


def betting_bound(losses: Losses, delta: float) -> float:
    """Give the least mean signed loss that can be promised at level 1 - delta, to 1e-5."""
    if betting_p(losses, 1 - 1e-9, delta) > delta:
        return 1.0
    return _least(lambda drop: betting_p(losses, drop, delta) <= delta, -1.0, 1.0)


def p_value(losses: Losses, drop: float, delta: float, method: str) -> float:
    """Test "the drop exceeds ``drop``" by a method; the binomial one ignores rows won."""
    if method == BINOMIAL:
        return binomial_p(int((losses > 0).sum()), len(losses), drop)
    return betting_p(losses, drop, delta)


def bound(losses: Losses, delta: float, method: str) -> float:
    """Give the least drop that can be promised at level 1 - delta by a method."""
    if method == BINOMIAL:
        return binomial_bound(int((losses > 0).sum()), len(losses), delta)
    return betting_bound(losses, delta)


def fixed_sequence(p_values: Sequence[float], delta: float) -> int:
    """Count the candidates that are certified.

    Candidates are tested in the given order at full level; the first failure ends it, and the
    failed one is not certified.

    Args:
        p_values: Of "the promise does not hold", safest candidate first.
        delta: Probability that any certified promise is false.

    Returns:
        j: the first j candidates are certified together at level 1 - delta.

    Example:
        >>> fixed_sequence([0.001, 0.04, 0.2, 0.01], 0.05)
        2
    """
    for j, p in enumerate(p_values):
        if not p <= delta:
            return j
    return len(p_values)


def rows_needed(
    losses: Losses, drop: float, delta: float, method: str, *, had: int = 0
) -> int | None:
    """Estimate how many check rows would certify a drop, if more rows were like these.

    Args:
        losses: (n,) int, losses known so far, check rows and others.
        drop: To be promised.
        delta: Of the promise.
        method: ``BINOMIAL`` or ``BETTING``.
        had: Check rows that did not do. These were an unlucky draw where fewer should have done,
            so no fewer than twice as many are named.

    Returns:
        Rows to about 5 %, or None where no number would do: the losses themselves exceed it.
    """
    lost = int((losses > 0).sum()) if method == BINOMIAL else int(losses.sum())
    if not len(losses) or lost >= drop * len(losses):
        return None
    # One loss is assumed where none was seen: nobody may count on luck twice.
    seen = losses if (losses > 0).any() else np.append(losses, 1)
    if seen.sum() >= drop * len(seen):
        seen = losses
    enough = _enough_by_count if method == BINOMIAL else _enough_by_betting
    n = max(len(losses) // 4, 16)
    while not enough(seen, n, drop, delta):
        n *= 2
        if n > _MOST_ROWS:
            return None
    low, high = n // 2, n
    while high - low > 0.05 * high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(seen, middle, drop, delta) else (middle, high)
    return max(high, 2 * had)


def _enough_by_count(seen: Losses, n: int, drop: float, delta: float) -> bool:
    """Say whether n rows with the same share of losses would do."""
    return binomial_p(math.ceil(n * (seen > 0).mean()), n, drop) <= delta


def _enough_by_betting(seen: Losses, n: int, drop: float, delta: float) -> bool:
    """Say whether n rows like these would do in most orders; beyond a while, in the limit."""
    if n > _TRIED_ROWS:
        # The betting bound comes near the normal one; a tenth on top was never too little.
        from scipy.stats import norm

        width = norm.isf(delta) * seen.std() / math.sqrt(n)
        return float(seen.mean() + 1.1 * width) <= drop
    rng = np.random.default_rng(n)
    more = np.tile(seen, math.ceil(n / len(seen)))
    passed = [betting_p(rng.permutation(more)[:n], drop, delta) <= delta for _ in range(_TRIES)]
    return sum(passed) > _TRIES / 2


def _bets(x: Floats, delta: float) -> Floats:
    """Size every bet from the rows before it: small where losses vary much."""
    n = len(x)
    count = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(x)) / (1 + count)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (1 + count)
    before = np.concatenate(([0.25], variance[:-1]))
    return np.asarray(np.sqrt(2 * math.log(1 / delta) / (n * before)))


def _least(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Bisect for the least value from which on ``holds``; the answer itself does."""
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
