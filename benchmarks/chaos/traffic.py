"""Requests at a steady rate, every reply judged the moment it comes.

The load runs in a thread of its own, so that a fault is written as plain, blocking code beside it.
Requests are due at random moments whatever the server does (an open loop), or follow each other
without pause (a closed one). Each is sent once and never again; the books must balance in the end:
what was sent has ended in exactly one way.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cascade_client.calls import Array, AsyncTransport, Infer, as_bytes
from cascade_client.transport import connect_async, connect_load
from cascade_router.errors import CascadeError

from .expected import Question
from .judge import OUTPUTS, Excuse, Kind, Verdict, either, judged, judged_error

__all__ = ["Entry", "Pace", "Traffic"]

Reply = dict[str, Array] | CascadeError
"""What becomes of a request."""

_LATE_S = 1.0
"""A request that ends this much after its caller's patience has hung; it is given up soon after."""

_PAUSE_S = 0.02
"""Of a closed loop after a refusal: a caller that hammers measures its own loop."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request.

    Attributes:
        sent: When, in seconds of the monotonic clock.
        ended: When.
        kind: How.
        tier: Who answered; -1: nobody.
        text: What was wrong, or the refusal.
    """

    sent: float
    ended: float
    kind: Kind
    tier: int = -1
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much is sent.

    Attributes:
        rate: Requests per second; None: ``callers`` that send again when they are answered.
        callers: Of the closed loop.
        deadline_ms: Asked of the cascade with every request; None: none.
        grace_ms: A reply may be this much later than its deadline; then the caller gives up.
        rows: Of each request; with more than one the questions must all have the same parameters.
        total: Ends a closed loop; None: it goes on until told.
        seed: Of order and gaps.
    """

    rate: float | None = 30.0
    callers: int = 16
    deadline_ms: float | None = 3000.0
    grace_ms: float = 1000.0
    rows: int = 1
    total: int | None = None
    seed: int = 0

    @property
    def patience_s(self) -> float:
        """Longest wait of a caller in seconds."""
        return ((self.deadline_ms or 20_000.0) + self.grace_ms) / 1e3


class Traffic:
    """The load on one cascade and what became of it; a context manager.

    Args:
        urls: Servers' addresses; requests take turns on them (gRPC or ``http://``).
        cascade: The ensemble.
        port: Name of its input.
        questions: Asked in a seeded order, again and again.
        pace: How much.
        degrades: Whether the cascade has the output ``DEGRADED``.

    Attributes:
        entries: Every request that has ended.
        sent: How many were sent.
        wrong: How many of the entries are wrong.
    """

    def __init__(
        self,
        urls: Sequence[str],
        cascade: str,
        port: str,
        questions: Sequence[Question],
        pace: Pace,
        *,
        degrades: bool = True,
    ) -> None:
        self._urls = urls
        self._cascade = cascade
        self._port = port
        self._asking = (questions, questions)
        self._pace = pace
        self._outputs = OUTPUTS if degrades else OUTPUTS[:3]
        self._excuse = Excuse()
        self._stop = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="traffic", daemon=True)
        self.entries: list[Entry] = []
        self.sent = 0
        self.wrong = 0
        self._asked = 0
        self._order: list[int] = []
        self._under_way: set[float] = set()

    def __enter__(self) -> Traffic:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending and wait for what is under way."""
        self.stop()
        self.join()

    def stop(self) -> None:
        """Send nothing more; what is under way goes on."""
        self._stop.set()

    def excuse(self, excuse: Excuse) -> None:
        """Say what may happen from now on."""
        self._excuse = excuse

    def ask(self, questions: Sequence[Question], or_as: Sequence[Question] | None = None) -> None:
        """Expect other answers from now on.

        Args:
            questions: The same rows and parameters as before, in the same order.
            or_as: Either answers will do, as while a change is under way; None: only the first.
        """
        self._asking = (questions, questions if or_as is None else or_as)

    def join(self) -> None:
        """Wait for the end of the load."""
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    @property
    def running(self) -> bool:
        """Whether it still sends or waits."""
        return self._thread.is_alive()

    def counts(self) -> dict[str, int]:
        """Count the ways in which requests ended."""
        seen = Counter(entry.kind for entry in self.entries)
        return {kind.value: seen[kind] for kind in Kind}

    def troubles(self, most: int = 5) -> list[str]:
        """Name what must not be: wrong answers (the first few), and books that do not balance."""
        wrong = [entry.text for entry in self.entries if entry.kind is Kind.WRONG]
        found = wrong[:most] + ([f"... {len(wrong)} in all"] if len(wrong) > most else [])
        if not self._thread.is_alive() and len(self.entries) != self.sent:
            found.append(f"{self.sent} sent, {len(self.entries)} ended")
        return found

    def since(self, moment: float) -> list[Entry]:
        """Take what was sent after a moment and has ended."""
        return [entry for entry in self.entries if entry.sent >= moment]

    def wait_whole(
        self,
        since: float,
        *,
        tiers: Sequence[int],
        within_s: float,
        whole: Callable[[], bool] = lambda: True,
        slow_s: float = math.inf,
    ) -> float | None:
        """Wait for full service: every process there, and a run of right answers by every tier.

        Args:
            since: When the fault began.
            tiers: Must answer a dozen times each, so that every instance of each has.
            within_s: Longest time that full service may be away.
            whole: Says whether every process is there.
            slow_s: An answer that took longer is none of full service.

        Returns:
            Seconds from the fault to the end of the last request that was not answered rightly, and
            to the return of the last process (0 where neither is missing); None: they are not back.
        """
        missing = since
        while True:
            entries = self.since(since)
            good = [e.kind is Kind.RIGHT and e.ended - e.sent <= slow_s for e in entries]
            bad = [e.ended for e, well in zip(entries, good, strict=True) if not well]
            away = max(bad, default=since)
            answered = Counter(e.tier for e in entries if e.sent > away)
            if not whole():
                missing = time.monotonic()
            elif all(answered[tier] >= 12 for tier in tiers):
                return max(away, missing) - since
            if time.monotonic() > since + within_s + 3 * self._pace.patience_s:
                return None
            time.sleep(0.05)

    def wait_ended(self, before: float) -> None:
        """Wait until every request that was sent before a moment has ended, or is given up."""
        end = time.monotonic() + self._pace.patience_s + 3 * _LATE_S
        while any(sent < before for sent in tuple(self._under_way)):
            if time.monotonic() > end or not self.running:
                return  # then the books do not balance, or the load has failed by itself
            time.sleep(0.05)

    def _work(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as exc:  # noqa: BLE001  # raised again where it is waited for
            self._fault = exc

    async def _main(self) -> None:
        transports = [
            connect_async(url) if url.startswith("http") else connect_load(url)
            for url in self._urls
        ]
        try:
            await (self._closed(transports) if self._pace.rate is None else self._open(transports))
        finally:
            for transport in transports:
                await transport.close()

    async def _open(self, transports: Sequence[AsyncTransport]) -> None:
        rng = np.random.default_rng(self._pace.seed)
        waiting: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while not self._stop.is_set():
            due += rng.exponential(1 / (self._pace.rate or 1.0))
            await asyncio.sleep(max(due - time.monotonic(), 0))
            task = asyncio.ensure_future(self._one(transports))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
        if waiting:
            await asyncio.wait(waiting)

    async def _closed(self, transports: Sequence[AsyncTransport]) -> None:
        await asyncio.gather(*(self._caller(transports) for _ in range(self._pace.callers)))

    async def _caller(self, transports: Sequence[AsyncTransport]) -> None:
        total = self._pace.total
        while not self._stop.is_set() and (total is None or self.sent < total):
            if (await self._one(transports)).kind is not Kind.RIGHT:
                await asyncio.sleep(_PAUSE_S)

    async def _one(self, transports: Sequence[AsyncTransport]) -> Entry:
        places = [self._next() for _ in range(self._pace.rows)]
        transport = transports[self.sent % len(transports)]
        self.sent += 1
        asking, excuse = self._asking, self._excuse
        sent = time.monotonic()
        self._under_way.add(sent)
        try:
            async with asyncio.timeout(self._pace.patience_s + 2 * _LATE_S):
                reply = await _reply(transport, self._call([asking[0][i] for i in places]))
            accepted = {id(some): some for some in (*asking, *self._asking)}.values()
            wanted = [[some[i] for i in places] for some in accepted]
            kind, tier, text = self._judged(reply, wanted, either(excuse, self._excuse))
        except Exception as exc:  # noqa: BLE001  # of ours, but a request that never ended is worse
            kind, tier, text = Kind.WRONG, -1, f"no answer and no clear error: {exc!r}"
        ended = time.monotonic()
        if ended - sent > self._pace.patience_s + _LATE_S:
            kind, text = Kind.WRONG, f"ended {ended - sent:.1f} s after it was sent"
        self._under_way.discard(sent)
        self.wrong += kind is Kind.WRONG
        self.entries.append(entry := Entry(sent, ended, kind, tier, text))
        return entry

    def _judged(
        self, reply: Reply, wanted: Sequence[Sequence[Question]], excuse: Excuse
    ) -> Verdict:
        deadline = self._pace.deadline_ms is not None
        if isinstance(reply, CascadeError):
            return judged_error(reply, excuse, wanted, deadline=deadline)
        return judged(wanted, reply, excuse, deadline=deadline)

    def _next(self) -> int:
        n = len(self._asking[0])
        round_, place = divmod(self._asked, n)
        if place == 0:
            self._order = np.random.default_rng([self._pace.seed, round_]).permutation(n).tolist()
        self._asked += 1
        return int(self._order[place])

    def _call(self, questions: Sequence[Question]) -> Infer:
        parameters: dict[str, Any] = dict(questions[0].parameters)
        if self._pace.deadline_ms is not None:
            parameters["cascade_deadline_ms"] = repr(self._pace.deadline_ms)
        rows = [one.row for one in questions]
        pictures = isinstance(rows[0], bytes)
        array = as_bytes(rows).reshape(-1, 1) if pictures else np.stack(rows)
        return Infer(
            self._cascade,
            {self._port: array},
            parameters,
            self._outputs,
            timeout_s=self._pace.patience_s,
        )


async def _reply(transport: AsyncTransport, call: Infer) -> Reply:
    try:
        return await transport.send(call)
    except CascadeError as error:
        return error
