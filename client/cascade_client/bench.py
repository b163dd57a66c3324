"""Load generators: a closed loop of N callers and an open loop at a rate.

In a closed loop a caller sends when its last answer came. In an open loop requests are due at
random moments whatever the server does, and latency counts from the moment a request was *due*:
a server (or a generator) that falls behind cannot hide the wait (coordinated omission, Tene 2013).

Shapes: R requests of B rows each.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from cascade_router.errors import CascadeError, RequestError, ServerError

from .calls import Array, AsyncTransport, Call, Infer, ModelSpec, Parameters, Port
from .rows import stack

__all__ = ["Candidate", "Load", "Records", "generate", "groups_of", "run_precisely"]

T = TypeVar("T")
Labels = npt.NDArray[np.int64]

_MOST_IN_FLIGHT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How a server is loaded.

    Attributes:
        concurrency: Callers of the closed loop; used where ``rate`` is None.
        rate: Requests per second of the open loop, with exponential gaps (Poisson).
        seconds: Length of the measurement; long against the latencies, because what is under way
            at the end of a closed loop is not recorded.
        requests: Ends the measurement early; None: no bound.
        warmup_s: Seconds of the same load before the measurement.
        batch: B, rows per request.
        seed: Of the order of rows and of the gaps.
        timeout_s: Longest wait for one reply.
    """

    concurrency: int = 32
    rate: float | None = None
    seconds: float = 2.0
    requests: int | None = None
    warmup_s: float = 0.5
    batch: int = 1
    seed: int = 0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse loads that are none."""
        counts = (self.concurrency, self.batch, 1 if self.requests is None else self.requests)
        positive = (self.seconds, self.timeout_s, 1.0 if self.rate is None else self.rate)
        if min(counts) < 1 or min(positive) <= 0 or self.warmup_s < 0:
            message = f"load: counts, rate and times must be positive, got {self}"
            raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something to load: a cascade under some parameters, or one expert by itself.

    Attributes:
        name: What the table calls it.
        model: Triton's model.
        port: Its input.
        parameters: Sent with every request.
        logits: Output to take the label from; None: the model is a cascade and says ``LABEL``.
    """

    name: str
    model: str
    port: Port
    parameters: Parameters = field(default_factory=dict)
    logits: str | None = None

    @classmethod
    def expert(cls, spec: ModelSpec) -> Candidate:
        """Load one expert directly.

        Raises:
            RequestError: If it has not one input and one output.
        """
        if len(spec.inputs) != 1 or len(spec.outputs) != 1:
            n = (len(spec.inputs), len(spec.outputs))
            message = f"{spec.name}: got {n[0]} inputs and {n[1]} outputs, expected one of each"
            raise RequestError(message, hint="only an expert can be loaded by itself")
        return cls(
            name=spec.name, model=spec.name, port=spec.inputs[0], logits=spec.outputs[0].name
        )

    def call(self, rows: Sequence[Array], timeout_s: float) -> Infer:
        """Ask for these rows in one request, all outputs wanted, as a plain client does."""
        return Infer(
            self.model, {self.port.name: stack(rows)}, self.parameters, timeout_s=timeout_s
        )

    def read(self, arrays: Mapping[str, Array]) -> tuple[Array | None, Array]:
        """Take tiers and labels, (B,) int each, from a reply; an expert alone has no tiers.

        Raises:
            ServerError: If the reply lacks them.
        """
        try:
            if self.logits is None:
                return arrays["TIER"].ravel(), arrays["LABEL"].ravel()
            return None, arrays[self.logits].argmax(axis=-1)
        except (KeyError, ValueError) as exc:
            message = f"{self.model}: the reply has outputs {', '.join(arrays)}"
            raise ServerError(message, hint="is it a cascade, or an expert?") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What happened to each request of a measurement.

    Attributes:
        seconds: Length of the measurement.
        latency_ms: (R,) float64; from the moment a request was sent (closed loop) or due (open).
        lag_ms: (R,) float64, how long after it was due it was sent; zeros in a closed loop.
        in_time: (R,) bool, answered before the measurement ended; throughput counts these.
        rows: (R, B) int64, numbers of the input rows.
        tiers: (R, B) int64, tier that answered; -1: none, or an expert by itself.
        labels: (R, B) int64; -1 where the request failed.
        errors: R names of error classes; None: answered.
    """

    seconds: float
    latency_ms: npt.NDArray[np.float64]
    lag_ms: npt.NDArray[np.float64]
    in_time: npt.NDArray[np.bool_]
    rows: Labels
    tiers: Labels
    labels: Labels
    errors: tuple[str | None, ...]

    @property
    def answered(self) -> npt.NDArray[np.bool_]:
        """(R,) bool."""
        return np.array([error is None for error in self.errors], dtype=bool)


def groups_of(n_rows: int, batch: int, seed: int) -> Labels:
    """Deal rows into requests.

    Args:
        n_rows: At least 1.
        batch: B.
        seed: Of the shuffle.

    Returns:
        (ceil(n_rows / B), B) int64: every row at least once; the last request is filled up from
        the first.
    """
    order = np.random.default_rng(seed).permutation(n_rows)
    n_groups = -(-n_rows // batch)
    return np.resize(order, (n_groups, batch))


async def generate(
    transport: AsyncTransport,
    candidate: Candidate,
    rows: Sequence[Array],
    load: Load,
    clock: Callable[[], float] = time.perf_counter,
) -> Records:
    """Load a server and record what happens; the warm-up is not recorded.

    Args:
        transport: Carries the requests.
        candidate: What to load.
        rows: Input rows, each of the candidate's shape and dtype; cycled in a seeded order.
        load: How much.
        clock: Seconds, monotonic.

    Raises:
        CascadeError: If the very first request fails.
        ValueError: If there are no rows.
    """
    if not rows:
        message = "generate: no rows to send"
        raise ValueError(message)
    groups = groups_of(len(rows), load.batch, load.seed)
    calls = [
        transport.encode(candidate.call([rows[i] for i in group], load.timeout_s))
        for group in groups.tolist()
    ]
    candidate.read(await transport.send(calls[0]))
    run = _Run(transport, candidate, calls, load, clock)
    await (run.closed_loop() if load.rate is None else run.open_loop(load.rate))
    return run.records(groups)


def run_precisely(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in an event loop that wakes to the microsecond.

    epoll rounds waits up to a millisecond, which bunches the requests of an open loop; select
    does not, and the few connections of a client do not miss epoll.
    """

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


class _Entry(NamedTuple):
    due: float
    sent: float
    finished: float
    request: int
    tiers: Array | None
    labels: Array | None
    error: str | None


class _Run:
    """One measurement under way."""

    def __init__(
        self,
        transport: AsyncTransport,
        candidate: Candidate,
        calls: Sequence[Call[dict[str, Array]]],
        load: Load,
        clock: Callable[[], float],
    ) -> None:
        self._send = transport.send
        self._read = candidate.read
        self._calls = calls
        self._load = load
        self._clock = clock
        self._next = _shuffled(len(calls), load.seed)
        self._entries: list[_Entry] = []
        self._start = clock() + load.warmup_s
        self._end = self._start + load.seconds
        self._left = load.requests

    async def closed_loop(self) -> None:
        """Let every caller send, wait, and send again until the end."""
        await asyncio.gather(*(self._caller() for _ in range(self._load.concurrency)))

    async def open_loop(self, rate: float) -> None:
        """Send at random moments until the end, then wait for what is under way."""
        rng = np.random.default_rng(self._load.seed)
        waiting: set[asyncio.Task[None]] = set()
        due = self._clock()
        while self._open(due := due + rng.exponential(1 / rate)):
            # Also without delay: what has arrived is taken in before more is sent.
            await asyncio.sleep(max(due - self._clock(), 0))
            while len(waiting) >= _MOST_IN_FLIGHT:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.ensure_future(self._one(due))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            if self._left is not None and due >= self._start:
                self._left -= 1
                self._end = min(self._end, due) if self._left == 0 else self._end
        if waiting:
            await asyncio.wait(waiting)

    async def _caller(self) -> None:
        while self._open(now := self._clock()):
            await self._one(now)
            finished = self._entries[-1].finished
            if self._left is not None and self._start <= finished <= self._end:
                self._left -= 1
                self._end = finished if self._left == 0 else self._end

    def _open(self, now: float) -> bool:
        return now < self._end and self._left != 0

    async def _one(self, due: float) -> None:
        i = next(self._next)
        sent = self._clock()
        tiers = labels = error = None
        try:
            tiers, labels = self._read(await self._send(self._calls[i]))
        except CascadeError as exc:
            error = type(exc).__name__
        self._entries.append(_Entry(due, sent, self._clock(), i, tiers, labels, error))

    def records(self, groups: Labels) -> Records:
        """Keep the requests of the measurement: due in it, or answered in it (closed loop)."""
        kept = [entry for entry in self._entries if self._start <= self._moment(entry) <= self._end]
        kept = kept[: self._load.requests]
        times = np.array([entry[:3] for entry in kept], dtype=np.float64).reshape(-1, 3)
        shape = (len(kept), groups.shape[1])
        return Records(
            seconds=self._end - self._start,
            latency_ms=1e3 * (times[:, 2] - times[:, 0]),
            lag_ms=1e3 * (times[:, 1] - times[:, 0]),
            in_time=times[:, 2] <= self._end,
            rows=groups[np.array([entry.request for entry in kept], dtype=np.int64)],
            tiers=_stacked([entry.tiers for entry in kept], shape),
            labels=_stacked([entry.labels for entry in kept], shape),
            errors=tuple(entry.error for entry in kept),
        )

    def _moment(self, entry: _Entry) -> float:
        return entry.finished if self._load.rate is None else entry.due


def _shuffled(n: int, seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    return itertools.chain.from_iterable(rng.permutation(n).tolist() for _ in itertools.count())


def _stacked(values: Sequence[Array | None], shape: tuple[int, int]) -> Labels:
    none = np.full(shape[1], -1, dtype=np.int64)
    full = [none if value is None else value for value in values]
    return np.array(full, dtype=np.int64).reshape(shape)
