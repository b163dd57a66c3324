"""Whether a reply is right, excused by the fault under way, or wrong."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cascade_client.calls import Array
from cascade_router.errors import (
    BusyError,
    CascadeError,
    NoAnswerError,
    NotReadyError,
    ServerError,
    TierError,
)

from .expected import Question, Reply

__all__ = ["OUTPUTS", "Excuse", "How", "Kind", "Verdict", "either", "judged", "judged_error"]

OUTPUTS = ("TIER", "LABEL", "CONFIDENCE", "DEGRADED")
"""What is asked of a cascade, the last only of one that has it."""


class Kind(enum.StrEnum):
    """How a request ended."""

    RIGHT = "right"
    DEGRADED = "degraded"
    REFUSED = "refused"
    BROKEN = "connection broken"
    SILENT = "no answer"
    WRONG = "wrong"


class How(enum.IntEnum):
    """What ``DEGRADED`` says."""

    FULL = 0
    FAILED = 1
    CUT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuse:
    """What a fault that is under way may do to requests.

    Attributes:
        tiers: May fail.
        refusals: Requests may be refused with a clear error.
        connection: Connections may break: the server itself is killed.
        silence: The process that answers is dead or stopped: nothing but the caller's own clock
            ends a request.
    """

    tiers: frozenset[int] = frozenset()
    refusals: bool = False
    connection: bool = False
    silence: bool = False


Verdict = tuple[Kind, int, str]
"""How it ended, who answered, and what was wrong or refused."""


def judged(
    wanted: Sequence[Sequence[Question]], arrays: Mapping[str, Array], excuse: Excuse
) -> Verdict:
    """Hold a reply against the oracle.

    Args:
        wanted: The request's rows, in each of the ways that will do: all rows must fit in one.
        arrays: The reply.
        excuse: What the fault under way may do.
    """
    try:
        columns = [arrays[name].ravel().tolist() for name in OUTPUTS[:3]]
        hows = arrays["DEGRADED"].ravel().tolist() if "DEGRADED" in arrays else [0] * len(wanted[0])
        replies = [Reply(*values) for values in zip(*columns, strict=True)]
    except (KeyError, TypeError, ValueError) as exc:
        return Kind.WRONG, -1, f"no reply of a cascade: {exc!r}"
    if not len(replies) == len(hows) == len(wanted[0]):
        return Kind.WRONG, -1, f"{len(replies)} answers to {len(wanted[0])} rows"
    verdicts = [
        [_one(q, r, how, excuse) for q, r, how in zip(questions, replies, hows, strict=True)]
        for questions in wanted
    ]
    return min((_worst(rows) for rows in verdicts), key=_badness)


def _one(question: Question, reply: Reply, how: int, excuse: Excuse) -> Verdict:
    if how == How.FULL and reply.same(question.right):
        return Kind.RIGHT, reply.tier, ""
    if how == How.FAILED and question.degraded(reply, excuse.tiers):
        return Kind.DEGRADED, reply.tier, ""
    if how == How.CUT and question.cut(reply):
        return Kind.DEGRADED, reply.tier, ""
    said = f"{dict(question.parameters)}: expected {question.right}, got {reply}, DEGRADED {how}"
    return Kind.WRONG, reply.tier, said


def _badness(verdict: Verdict) -> int:
    return [Kind.RIGHT, Kind.DEGRADED, Kind.WRONG].index(verdict[0])


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=_badness)


def judged_error(error: CascadeError, excuse: Excuse) -> Verdict:
    """Say whether a failure is a clear refusal that the fault under way excuses."""
    text = f"{type(error).__name__}: {error.message}"
    if "Traceback" in text or 'File "' in text or not error.message:
        return Kind.WRONG, -1, f"not a clear error: {text}"
    if isinstance(error, NoAnswerError) and error.message.endswith("no answer in time"):
        return (Kind.SILENT if excuse.silence else Kind.WRONG), -1, text
    if isinstance(error, BusyError | TierError | NotReadyError | NoAnswerError):
        return (Kind.REFUSED if excuse.refusals else Kind.WRONG), -1, text
    if isinstance(error, ServerError):
        return (Kind.BROKEN if excuse.connection else Kind.WRONG), -1, text
    return Kind.WRONG, -1, text


def either(one: Excuse, other: Excuse) -> Excuse:
    """What may happen to a request that was under way while two excuses held."""
    return Excuse(
        tiers=one.tiers | other.tiers,
        refusals=one.refusals or other.refusals,
        connection=one.connection or other.connection,
        silence=one.silence or other.silence,
    )
