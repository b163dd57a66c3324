"""The two clients: one that waits and one whose waits can be shared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from cascade_router.errors import CascadeError
from cascade_router.keys import Keys

from .answer import Answer
from .calls import Array, AsyncTransport, Call, Flow, ModelSpec, Transport
from .conversation import Pause, Talk, infer_parameters
from .rows import Row
from .status import ServedPolicy, Status

__all__ = ["AsyncCascadeClient", "CascadeClient"]

T = TypeVar("T")

DEFAULT_URL = "localhost:8001"


class CascadeClient:
    """Ask a served cascade and wait for its answers.

    Args:
        url: ``grpc://host:port``, ``http://host:port`` or ``host:port`` (gRPC).
        cascade: Name of the cascade.
        timeout_s: Longest wait for one reply.
        keys: For a guarded server: to switch its point, and to list what it has.
        transport: Used instead of opening the url.
        sleep: Waits between looks at a server that is not ready.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        cascade: str = "imagenet",
        *,
        timeout_s: float = 60.0,
        keys: Keys | None = None,
        transport: Transport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if transport is None:
            from .transport import connect

            transport = connect(url, timeout_s=timeout_s, key=keys.control if keys else None)
        self._transport = transport
        self._talk = Talk(url, cascade, policy_key=keys.policy if keys else None)
        self._sleep = sleep

    def infer(
        self,
        rows: Sequence[Row] | Array,
        point: str | None = None,
        min_tier: int | None = None,
        max_tier: int | None = None,
        scores: bool = True,
        *,
        efficiency: float | None = None,
        deadline_ms: float | None = None,
        rows_per_request: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Answer]:
        """Answer rows, in their order.

        Args:
            rows: Pictures (their bytes) or files where the cascade takes pictures; texts, or files
                (``Path``) of one a line, where it takes texts; arrays of one row each or ``.npy``
                files where it takes numbers.
            point: Operating point; None: the server's default.
            min_tier: Lowest tier that may answer.
            max_tier: Highest tier that may answer.
            efficiency: Instead of ``point``: 0 the safest certified one, 1 the cheapest.
            deadline_ms: Time for each answer on the server: a tier that cannot make it is not
                started, the best answer so far is given.
            scores: Also fetch the probabilities of all classes.
            rows_per_request: Rows sent together; None: as many as the server allows. With 1,
                every answer has its own ``ms``.
            timeout_s: Longest wait for one reply; None: the client's.

        Raises:
            RequestError: If a row, the point or a tier is refused; the row is named.
            BusyError: If a queue of the server is full, or no tier can keep the deadline.
            TierError: If an expert failed.
            ServerError: If the server cannot be reached, is not ready or does not answer in time.
        """
        parameters = infer_parameters(point, min_tier, max_tier, efficiency, deadline_ms)
        return self.run(
            self._talk.infer(
                rows,
                parameters,
                scores=scores,
                rows_per_request=rows_per_request,
                timeout_s=timeout_s,
            )
        )

    def spec(self, model: str | None = None) -> ModelSpec:
        """Fetch what the cascade, or another model, takes and gives."""
        return self.run(self._talk.spec() if model is None else self._talk.spec_of(model))

    def policy(self) -> ServedPolicy:
        """Fetch the policy in force."""
        return self.run(self._talk.policy())

    def set_point(self, point: str, who: str = "python") -> dict[str, str]:
        """Switch the default point of the running cascade, for everyone.

        Args:
            point: Name of the operating point.
            who: Recorded on the server's side.

        Returns:
            The record: ``when``, ``who``, ``was``, ``point``.

        Raises:
            RequestError: If there is no such point.
        """
        return self.run(self._talk.set_point(point, who))

    def status(self) -> Status:
        """Look at the server and every part of the cascade."""
        return self.run(self._talk.status())

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every part serves and every tier has answered a row.

        Raises:
            NoAnswerError: If that does not come about in time; says what was missing last.
        """
        self.run(self._talk.wait_ready(timeout_s))

    def run(self, flow: Flow[T]) -> T:
        """Hold a conversation with the server."""
        try:
            call = next(flow)
            while True:
                try:
                    reply = self._reply(call)
                except CascadeError as exc:
                    call = flow.throw(exc)
                else:
                    call = flow.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    def _reply(self, call: Call[Any]) -> Any:
        if isinstance(call, Pause):
            return self._sleep(call.seconds)
        return self._transport.send(call)

    def close(self) -> None:
        """Let the connection go."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncCascadeClient:
    """`CascadeClient` whose waits can be shared: gather many calls of ``infer``.

    Open it inside the event loop that uses it. Arguments and methods are those of
    `CascadeClient`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        cascade: str = "imagenet",
        *,
        timeout_s: float = 60.0,
        keys: Keys | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        if transport is None:
            from .transport import connect_async

            key = keys.control if keys else None
            transport = connect_async(url, timeout_s=timeout_s, key=key)
        self._transport = transport
        self._talk = Talk(url, cascade, policy_key=keys.policy if keys else None)

    async def infer(
        self,
        rows: Sequence[Row] | Array,
        point: str | None = None,
        min_tier: int | None = None,
        max_tier: int | None = None,
        scores: bool = True,
        *,
        efficiency: float | None = None,
        deadline_ms: float | None = None,
        rows_per_request: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Answer]:
        """Answer rows, in their order; as `CascadeClient.infer`."""
        parameters = infer_parameters(point, min_tier, max_tier, efficiency, deadline_ms)
        return await self.run(
            self._talk.infer(
                rows,
                parameters,
                scores=scores,
                rows_per_request=rows_per_request,
                timeout_s=timeout_s,
            )
        )

    async def spec(self, model: str | None = None) -> ModelSpec:
        """Fetch what the cascade, or another model, takes and gives."""
        return await self.run(self._talk.spec() if model is None else self._talk.spec_of(model))

    async def policy(self) -> ServedPolicy:
        """Fetch the policy in force."""
        return await self.run(self._talk.policy())

    async def set_point(self, point: str, who: str = "python") -> dict[str, str]:
        """Switch the default point of the running cascade, for everyone.

        Args:
            point: Name of the operating point.
            who: Recorded on the server's side.

        Returns:
            The record: ``when``, ``who``, ``was``, ``point``.

        Raises:
            RequestError: If there is no such point.
        """
        return await self.run(self._talk.set_point(point, who))

    async def status(self) -> Status:
        """Look at the server and every part of the cascade."""
        return await self.run(self._talk.status())

    async def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until every part serves and every tier has answered a row."""
        await self.run(self._talk.wait_ready(timeout_s))

    async def run(self, flow: Flow[T]) -> T:
        """Hold a conversation with the server."""
        try:
            call = next(flow)
            while True:
                try:
                    reply = await self._reply(call)
                except CascadeError as exc:
                    call = flow.throw(exc)
                else:
                    call = flow.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _reply(self, call: Call[Any]) -> Any:
        if isinstance(call, Pause):
            return await asyncio.sleep(call.seconds)
        return await self._transport.send(call)

    async def close(self) -> None:
        """Let the connection go."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
