"""What can go wrong, sorted by whose turn it is.

    CascadeError(message, hint=None)
    |- SpecError           the author of cascade.toml
    |- BuildError          the person with the toolchain (export, engine, repository)
    |- RecordsError        the person who gave the rows
    |- CalibrationError    the person choosing target or data
    |- PolicyError         whoever deployed this policy with this repository
    |- RequestError        the caller
    |- TierError           the operator: an expert failed
    |  `- DeadError        it is down for certain, whatever rows it was given
    |- BusyError           the operator: a queue is full; the caller tries again later
    `- ServerError         the operator: the server cannot be started, reached, or is not ready
       |- NotReadyError    it answers but does not serve yet
       |- AccessError      it wants a key
       `- NoAnswerError    it did not answer in time

A wrong Python argument stays ``ValueError``; our own bug keeps its traceback.
"""

from __future__ import annotations

__all__ = [
    "AccessError",
    "BuildError",
    "BusyError",
    "CalibrationError",
    "CascadeError",
    "DeadError",
    "NoAnswerError",
    "NotReadyError",
    "PolicyError",
    "RecordsError",
    "RequestError",
    "ServerError",
    "SpecError",
    "TierError",
]


class CascadeError(Exception):
    """Base of every error this project raises on purpose.

    Attributes:
        message: ``where: what is wrong, got value, expected what``.
        hint: The next step, shown on a second line after ``help:``.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhelp: {self.hint}"


class SpecError(CascadeError):
    """``cascade.toml`` asks for something that cannot be."""


class BuildError(CascadeError):
    """An export, an engine or the repository could not be made."""


class RecordsError(CascadeError):
    """Rows or records cannot be read or do not fit the experts."""


class CalibrationError(CascadeError):
    """No operating point keeps what was asked for."""


class PolicyError(CascadeError):
    """``policy.json`` is broken or was made for other experts."""


class RequestError(CascadeError):
    """A request is wrong; its batch mates are not."""


class TierError(CascadeError):
    """An expert did not answer."""


class DeadError(TierError):
    """An expert is down, so no row is to blame."""


class BusyError(CascadeError):
    """A queue is full."""


class ServerError(CascadeError):
    """The server cannot be started or reached."""


class NotReadyError(ServerError):
    """The server answers but the cascade does not serve yet."""


class AccessError(ServerError):
    """The server answers this to the holder of a key only."""


class NoAnswerError(ServerError):
    """The server did not answer in time."""
