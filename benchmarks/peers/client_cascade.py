"""The cascade in the client: it calls one expert after the other and sends the rows each time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from cascade_client.calls import Array, AsyncTransport, Call, Infer
from cascade_client.transport import connect_load
from cascade_router import probabilities

from .climb import Climb
from .peer import Loadable, Setup, server_of

__all__ = ["CascadingTransport", "ClientCascade"]

T = TypeVar("T")

_OUTPUT = "LOGITS"


@dataclass(frozen=True)
class ClientCascade:
    """An asynchronous client with one round trip per tier, to the experts that Triton serves."""

    name: str = "client_cascade"
    alone: bool = False

    def missing(self) -> None:
        """It needs nothing."""

    def lay_out(self, setup: Setup) -> None:
        """Nothing: the experts are there."""

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Loadable]:
        """Walk by gRPC."""
        url = server_of(setup, self.name)
        yield Loadable(
            candidate=setup.candidate(self.name, setup.cascade),
            connect=lambda: CascadingTransport(connect_load(url), setup),
        )


@dataclass(frozen=True)
class _Walk(Call[dict[str, Array]]):
    """A request for the cascade, with what each tier is asked when no row has exited before it."""

    asked: Infer
    whole: tuple[Call[dict[str, Array]], ...]


class CascadingTransport:
    """Answers `Infer` as a cascade would, whatever model it names, by calling the experts.

    Args:
        inner: Carries the calls to the experts.
        setup: The cascade.
    """

    def __init__(self, inner: AsyncTransport, setup: Setup) -> None:
        self._inner = inner
        self._setup = setup

    def encode(self, call: Call[T]) -> Call[T]:
        """Write the request to every tier now."""
        if not isinstance(call, Infer):
            return call if isinstance(call, _Walk) else self._inner.encode(call)
        rows = call.arrays[self._setup.port.name]
        whole = tuple(
            self._inner.encode(self._ask(call, k, rows)) for k in range(len(self._setup.tiers))
        )
        return cast("Call[T]", _Walk(call, whole))

    async def send(self, call: Call[T]) -> T:
        """Ask tier after tier until every row has its answer."""
        walk: Any = self.encode(call)
        if not isinstance(walk, _Walk):
            return cast("T", await self._inner.send(walk))
        setup = self._setup
        rows = walk.asked.arrays[setup.port.name]
        climb = Climb(len(rows), setup.classes, setup.thresholds)
        for k, whole in enumerate(walk.whole):
            left = climb.left
            ask = whole if len(left) == len(rows) else self._ask(walk.asked, k, rows[left])
            logits = (await self._inner.send(ask))[_OUTPUT]
            climb.take(probabilities(logits, setup.activation))
            if not len(climb.left):
                break
        return cast("T", climb.answers())

    async def close(self) -> None:
        """Let the connection go."""
        await self._inner.close()

    def _ask(self, call: Infer, tier: int, rows: Array) -> Infer:
        model = self._setup.tiers[tier].model
        return Infer(model, {self._setup.port.name: rows}, timeout_s=call.timeout_s)
