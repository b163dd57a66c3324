"""Whether a reply is right, excused by the fault under way, or wrong."""

from __future__ import annotations

import enum
import re
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

__all__ = [
    "OUTPUTS",
    "TRACE",
    "Excuse",
    "How",
    "Kind",
    "Refusal",
    "Verdict",
    "either",
    "judged",
    "judged_error",
]

OUTPUTS = ("TIER", "LABEL", "CONFIDENCE", "DEGRADED")
"""What is asked of a cascade, the last only of one that has it."""

TRACE = re.compile(r'Traceback|File "|\nAt:\n|\.py\(\d+\)')
"""Where in the code something broke: no caller's business, and in a log the sign of a fault of
ours. An exception that leaves a Python model reaches its caller as ``X: ... At: file.py(99)``."""


class Kind(enum.StrEnum):
    """How a request ended."""

    RIGHT = "right"
    DEGRADED = "degraded"
    REFUSED = "refused"
    BROKEN = "connection broken"
    SILENT = "no answer"
    WRONG = "wrong"


class Refusal(enum.StrEnum):
    """Why a request was refused."""

    FULL = "a queue is full"
    DEADLINE = "its time is over"
    TIER = "a tier failed"
    SERVICE = "the cascade does not serve"


_SAID = (
    (Refusal.DEADLINE, re.compile(r"^cascade_deadline_ms: ")),
    (Refusal.TIER, re.compile(r"^tier .*(\) failed: |: no answer within | failed \(left )")),
    (Refusal.FULL, re.compile(r"queue full|queue is full|[Ee]xceeds maximum queue size")),
    (Refusal.SERVICE, re.compile(r"is being unloaded|^Stub process \S+ is not healthy")),
)
"""By its sentence: the status of the first three is one and the same."""

_TIER = re.compile(r"^tier (?:'(?P<name>[^']*)'|(?P<place>\d+))")


class How(enum.IntEnum):
    """What ``DEGRADED`` says."""

    FULL = 0
    FAILED = 1
    CUT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Excuse:
    """What a fault that is under way may do to requests.

    Attributes:
        tiers: May fail: rows that need them are answered or refused as the policy says.
        full: Queues may be full.
        connection: Connections may break: the server itself is killed.
        silence: The process that answers is dead: Triton says so, or nothing but the caller's own
            clock ends a request.
    """

    tiers: frozenset[int] = frozenset()
    full: bool = False
    connection: bool = False
    silence: bool = False


Verdict = tuple[Kind, int, str]
"""How it ended, who answered, and what was wrong or refused."""


def judged(
    wanted: Sequence[Sequence[Question]],
    arrays: Mapping[str, Array],
    excuse: Excuse,
    *,
    deadline: bool,
) -> Verdict:
    """Hold a reply against the oracle.

    Args:
        wanted: The request's rows, in each of the ways that will do: all rows must fit in one.
        arrays: The reply.
        excuse: What the fault under way may do.
        deadline: Whether one was sent, which may cut an answer short.
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
        [
            _one(question, reply, how, excuse, deadline)
            for question, reply, how in zip(questions, replies, hows, strict=True)
        ]
        for questions in wanted
    ]
    return min((_worst(rows) for rows in verdicts), key=_badness)


def _one(question: Question, reply: Reply, how: int, excuse: Excuse, deadline: bool) -> Verdict:
    if how == How.FULL and reply.same(question.right):
        return Kind.RIGHT, reply.tier, ""
    if how == How.FAILED and question.degraded(reply, excuse.tiers):
        return Kind.DEGRADED, reply.tier, ""
    if how == How.CUT and deadline and question.cut(reply, excuse.tiers):
        return Kind.DEGRADED, reply.tier, ""
    said = f"{dict(question.parameters)}: expected {question.right}, got {reply}, DEGRADED {how}"
    return Kind.WRONG, reply.tier, said


def _badness(verdict: Verdict) -> int:
    return [Kind.RIGHT, Kind.DEGRADED, Kind.WRONG].index(verdict[0])


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    return max(verdicts, key=_badness)


def judged_error(
    error: CascadeError,
    excuse: Excuse,
    wanted: Sequence[Sequence[Question]],
    *,
    deadline: bool,
) -> Verdict:
    """Say whether a failure is a clear refusal that the fault under way excuses.

    Args:
        error: The failure.
        excuse: What the fault under way may do.
        wanted: The request's rows, in each of the ways that would have done.
        deadline: Whether one was sent, which may end a request that waits for a tier.
    """
    text = f"{type(error).__name__}: {error.message}"
    if TRACE.search(text) or not error.message:
        return Kind.WRONG, -1, f"not a clear error: {text!r}"
    if isinstance(error, NoAnswerError) and error.message.endswith("no answer in time"):
        return (Kind.SILENT if excuse.silence else Kind.WRONG), -1, text
    if isinstance(error, BusyError | TierError | NotReadyError | NoAnswerError):
        asked = [question for questions in wanted for question in questions]
        match _reason(error):
            case Refusal.FULL:
                fine = excuse.full
            case Refusal.DEADLINE:
                fine = deadline and any(q.kept_waiting(excuse.tiers) for q in asked)
            case Refusal.TIER:
                fine = any(
                    _tier_in(error.message, q) in excuse.tiers and q.refused(excuse.tiers)
                    for q in asked
                )
            case Refusal.SERVICE:
                fine = excuse.silence
            case None:
                fine = False
        if fine:
            return Kind.REFUSED, -1, text
        said = [dict(question.parameters) for question in wanted[0]]
        return Kind.WRONG, -1, f"{said}: refused without need: {text}"
    if isinstance(error, ServerError):
        return (Kind.BROKEN if excuse.connection else Kind.WRONG), -1, text
    return Kind.WRONG, -1, text


def _reason(error: CascadeError) -> Refusal | None:
    """Say why a request was refused; None: the sentence is none that is known."""
    for reason, said in _SAID:
        if said.search(error.message):
            return reason
    # Triton has many words for a model that is gone, and the client knows them.
    return Refusal.SERVICE if isinstance(error, NotReadyError) else None


def _tier_in(message: str, question: Question) -> int:
    """Say which tier a refusal names; -1: none of this cascade."""
    found = _TIER.match(message)
    if found is None:
        return -1
    if found["place"] is not None:
        return int(found["place"])
    names = [tier.get("name") for tier in question.policy["tiers"]]
    return names.index(found["name"]) if found["name"] in names else -1


def either(one: Excuse, other: Excuse) -> Excuse:
    """What may happen to a request that was under way while two excuses held."""
    return Excuse(
        tiers=one.tiers | other.tiers,
        full=one.full or other.full,
        connection=one.connection or other.connection,
        silence=one.silence or other.silence,
    )
