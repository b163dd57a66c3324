"""Rows and answers as plain bytes over HTTP, for a server that is no Triton.

A request's body is the canonical rows as they lie in memory. The reply's is TIER and LABEL, int32,
then CONFIDENCE and SCORES, float32: all rows of one after all rows of the other.
"""

from __future__ import annotations

from typing import TypeVar, cast

import numpy as np

from cascade_client.address import Address
from cascade_client.calls import Array, Call, Infer
from cascade_client.http_async import AsyncHttpTransport
from cascade_client.rest import HttpMessage, HttpReply
from cascade_client.tensors import DTYPES, raw_from_array

from .peer import Setup

__all__ = ["RawRowsTransport", "body_of", "rows_of"]

T = TypeVar("T")

_TIMEOUT_S = 60.0


def rows_of(body: bytes, setup: Setup) -> Array:
    """Read (n, ...) rows from a request's body; a view of it."""
    return np.frombuffer(body, DTYPES[setup.port.datatype]).reshape(-1, *setup.port.shape)


def body_of(answers: dict[str, Array]) -> bytes:
    """Write a reply's body."""
    return b"".join(answers[name].tobytes() for name in ("TIER", "LABEL", "CONFIDENCE", "SCORES"))


class RawRowsTransport:
    """Sends `Infer` as bare rows, whatever model it names; may be used in one event loop.

    Args:
        address: The server.
        setup: Says what rows and answers look like.
    """

    def __init__(self, address: Address, setup: Setup) -> None:
        self._http = AsyncHttpTransport(address, _TIMEOUT_S)
        self._setup = setup

    def encode(self, call: Call[T]) -> Call[T]:
        """Write the request now."""
        if not isinstance(call, Infer):
            return call
        message = HttpMessage(
            "POST",
            "/",
            self._answers,
            _TIMEOUT_S if call.timeout_s is None else call.timeout_s,
            body=raw_from_array(call.arrays[self._setup.port.name]),
            headers={"content-type": "application/octet-stream"},
        )
        return cast("Call[T]", message)

    async def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        return await self._http.send(self.encode(call))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    def _answers(self, reply: HttpReply) -> dict[str, Array]:
        n = len(reply.body) // (4 * (3 + self._setup.classes))
        ints = np.frombuffer(reply.body, "<i4", 2 * n).reshape(2, n, 1)
        floats = np.frombuffer(reply.body, "<f4", offset=8 * n)
        scores = floats[n:].reshape(n, self._setup.classes)
        return {"TIER": ints[0], "LABEL": ints[1], "CONFIDENCE": floats[:n, None], "SCORES": scores}
