"""What one request asks of the router, read from its ``cascade_`` parameters."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from .errors import RequestError
from .policy import Policy
from .strict import suggestion

__all__ = ["NAMES", "Options"]

NAMES = [
    "cascade_point",
    "cascade_efficiency",
    "cascade_min_tier",
    "cascade_max_tier",
    "cascade_deadline_ms",
]
"""The parameters there are."""

_MOST = 16 * 1024
"""Longest text of all parameters of a request: they are kept for a while, and quoted in errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What one request asks for.

    Attributes:
        point: Index of the operating point.
        min_tier: Lowest tier that may answer.
        max_tier: Highest tier that may answer.
        deadline_ms: Time for the answer, from when the router takes the request; inf: no bound.
    """

    point: int
    min_tier: int
    max_tier: int
    deadline_ms: float = math.inf

    @classmethod
    def of(cls, parameters: str, policy: Policy) -> Options:
        """Read a request's parameters.

        Args:
            parameters: JSON object as Triton hands it over; empty: none.
            policy: Says which points and tiers there are.

        Raises:
            RequestError: For an unknown ``cascade_`` parameter, point or tier, or a value that does
                not fit.
        """
        if len(parameters) > _MOST:
            message = f"parameters: {len(parameters)} characters, at most {_MOST} are read"
            raise RequestError(message, hint="send fewer")
        given: dict[str, Any] = json.loads(parameters) if parameters else {}
        for key in given:
            if key.startswith("cascade_") and key not in NAMES:
                message = f"{key}: no such parameter"
                raise RequestError(message, hint=suggestion(key, NAMES))
        last = len(policy.tiers) - 1
        low = _tier(given, "cascade_min_tier", 0, last)
        high = _tier(given, "cascade_max_tier", last, last)
        if low > high:
            message = f"cascade_min_tier: got {low}, above cascade_max_tier {high}"
            raise RequestError(message, hint="ask for a range of tiers that holds one")
        return cls(
            point=_point(given, policy),
            min_tier=low,
            max_tier=high,
            deadline_ms=_deadline(given),
        )


def _point(given: dict[str, Any], policy: Policy) -> int:
    efficiency = given.get("cascade_efficiency")
    if efficiency is None:
        return policy.index(str(given.get("cascade_point", policy.default)))
    if "cascade_point" in given:
        message = "cascade_efficiency: given beside cascade_point"
        raise RequestError(message, hint="give one of them")
    share = _number(efficiency)
    if not 0 <= share <= 1:
        message = f"cascade_efficiency: got {efficiency!r}, expected a number from 0 to 1"
        raise RequestError(message, hint="0: the safest certified point, 1: the cheapest")
    ladder = policy.certified
    if not ladder:
        message = "cascade_efficiency: this policy has no certified points"
        raise RequestError(message, hint="name a cascade_point, or run `cascade-builder calibrate`")
    return ladder[round((1 - share) * (len(ladder) - 1))]


def _deadline(given: dict[str, Any]) -> float:
    value = given.get("cascade_deadline_ms")
    if value is None:
        return math.inf
    deadline = _number(value)
    if not 0 < deadline < math.inf:
        message = f"cascade_deadline_ms: got {value!r}, expected a number above 0"
        raise RequestError(message, hint="milliseconds from when the router takes the request")
    return deadline


def _number(value: Any) -> float:
    """Read a number, also from clients that can only send text; NaN where it is none."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _tier(given: dict[str, Any], key: str, default: int, last: int) -> int:
    value = given.get(key, default)
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 10:
        value = int(value)  # from clients that can only send text
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= last:
        message = f"{key}: got {value!r}, expected a tier from 0 to {last}"
        raise RequestError(message, hint="`cascade-client status` lists the tiers")
    return value
