"""What can be asked of a Triton server, and the seam at which it is asked.

A call is plain data that knows the type of its reply. Clients are written as generators that
yield calls and take replies, so one text serves the blocking and the asynchronous client; real
transports and the fakes of the tests stand behind `Transport` and `AsyncTransport`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "AsyncTransport",
    "Call",
    "Counts",
    "Flow",
    "Index",
    "IndexEntry",
    "Infer",
    "ModelConfig",
    "ModelReady",
    "ModelSpec",
    "Parameters",
    "Port",
    "ServerLive",
    "ServerMetadata",
    "ServerName",
    "ServerReady",
    "Statistics",
    "Transport",
    "as_bytes",
    "ask",
    "digest_of",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Array = npt.NDArray[Any]
Parameters = Mapping[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: Its name.
        datatype: Triton's word for it, such as ``FP32`` or ``BYTES``.
        shape: Lengths without the batch dimension; -1: any.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model takes and gives.

    Attributes:
        name: The model.
        max_batch_size: Rows that one request may carry; 0: tensors have no batch dimension.
        inputs: Its inputs.
        outputs: Its outputs.
        steps: Models an ensemble is made of; empty for any other model.
        digest: Of the whole configuration as this protocol tells it, so that a changed number of
            instances shows; no part of what makes two equal.
    """

    name: str
    max_batch_size: int
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    steps: tuple[str, ...] = ()
    digest: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of a model in the server's repository."""

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """What one version of a model has done since it was loaded.

    Attributes:
        version: The version.
        rows: Rows it answered.
        batches: Times it ran; rows / batches is its mean batch size.
        calls: Requests it answered; one may carry several rows.
        queue_ms: Waited before they ran, summed over calls.
        compute_ms: Copying in, running and copying out, summed over batches.
    """

    version: str
    rows: int
    batches: int
    calls: int = 0
    queue_ms: float = 0.0
    compute_ms: float = 0.0

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Counts:
        """Read one of Triton's ``model_stats``; absent counts are zero."""
        queue = values.get("inference_stats", {}).get("queue", {})
        # By batch, because ``inference_stats`` adds a batch's time once for each call in it.
        spans = [
            batch.get(part, {})
            for batch in values.get("batch_stats", ())
            for part in ("compute_input", "compute_infer", "compute_output")
        ]
        return cls(
            version=str(values.get("version", "")),
            rows=int(values.get("inference_count", 0)),
            batches=int(values.get("execution_count", 0)),
            calls=int(queue.get("count", 0)),
            queue_ms=int(queue.get("ns", 0)) / 1e6,
            compute_ms=sum(int(span.get("ns", 0)) for span in spans) / 1e6,
        )


@dataclass(frozen=True, slots=True)
class ServerName:
    """What the server says it is."""

    name: str
    version: str


@dataclass(frozen=True)
class Call(Generic[T_co]):
    """Something to ask; ``T_co`` is the type of the reply."""


@dataclass(frozen=True)
class ServerLive(Call[bool]):
    """Does the server answer at all?"""


@dataclass(frozen=True)
class ServerReady(Call[bool]):
    """Have all models loaded?"""


@dataclass(frozen=True)
class ServerMetadata(Call[ServerName]):
    """Which server is it?"""


@dataclass(frozen=True)
class ModelReady(Call[bool]):
    """Is this model loaded? False, too, where there is no such model."""

    model: str


@dataclass(frozen=True)
class ModelConfig(Call[ModelSpec]):
    """What does this model take and give?"""

    model: str


@dataclass(frozen=True)
class Index(Call[list[IndexEntry]]):
    """Which models does the repository hold?"""


@dataclass(frozen=True)
class Statistics(Call[list[Counts]]):
    """What has each loaded version of this model done since it was loaded?"""

    model: str


@dataclass(frozen=True)
class Infer(Call[dict[str, Array]]):
    """Run a model.

    Attributes:
        model: The model.
        arrays: Inputs by name, batch dimension included; object arrays of bytes are ``BYTES``.
        parameters: Request parameters.
        outputs: The outputs wanted; empty: all.
        timeout_s: Longest wait for the reply; None: the transport's own.
    """

    model: str
    arrays: Mapping[str, Array]
    parameters: Parameters = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    timeout_s: float | None = None


class Transport(Protocol):
    """Carries calls to a server and replies back; any failure is one of our errors."""

    def encode(self, call: Call[T]) -> Call[T]:
        """Do the work of sending that can be done ahead; the result is sent like the call."""

    def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply.

        Raises:
            CascadeError: As `cascade_client.faults` sorts it.
        """

    def close(self) -> None:
        """Let the connection go."""


class AsyncTransport(Protocol):
    """`Transport` whose waits can be shared."""

    def encode(self, call: Call[T]) -> Call[T]:
        """Do the work of sending that can be done ahead; the result is sent like the call."""

    async def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply.

        Raises:
            CascadeError: As `cascade_client.faults` sorts it.
        """

    async def close(self) -> None:
        """Let the connection go."""


Flow: TypeAlias = Generator[Call[Any], Any, T]
"""A conversation: yields calls, takes their replies, returns what came of it."""


def ask(call: Call[T]) -> Flow[T]:
    """Ask one thing inside a conversation; keeps the reply's type."""
    reply: T = yield call
    return reply


def as_bytes(values: list[bytes]) -> Array:
    """Put byte strings into the (N,) object array that stands for ``BYTES``."""
    out = np.empty(len(values), dtype=object)
    out[:] = values
    return out


def digest_of(content: bytes) -> str:
    """Name a content: two that are equal have equal names."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
