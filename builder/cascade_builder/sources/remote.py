"""A served model, asked over gRPC where it runs: to record it, to time it, to check it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError

from .served import ServedModel

__all__ = ["remote_runner", "why_not"]

_TIMEOUT_S = 120.0
_READY_S = 2.0


def why_not(model: ServedModel, server: str) -> str | None:
    """Say why a model cannot be asked, in one clause; None: it can."""
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(server)
    try:
        if client.is_model_ready(model.name, client_timeout=_READY_S):
            return None
    except InferenceServerException:
        return f"no server answers at {server}"
    finally:
        client.close()
    return f"the server {server} has no model {model.name!r} ready"


def remote_runner(
    model: ServedModel, server: str, dtype: str
) -> Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]:
    """Open a served model as a function of stacked rows.

    Args:
        model: It.
        server: Host and gRPC port.
        dtype: Triton's name of the canonical dtype.

    Returns:
        (n, ...) rows to (n, C) float32 logits; raises ``BuildError`` when the server does not
        answer.
    """
    from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
    from tritonclient.utils import InferenceServerException

    client = InferenceServerClient(server)
    wanted = [InferRequestedOutput(model.output)]

    def part(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        given = InferInput(model.input, list(rows.shape), dtype)
        given.set_data_from_numpy(np.ascontiguousarray(rows))
        try:
            answer = client.infer(
                model.name, [given], outputs=wanted, client_timeout=_TIMEOUT_S
            ).as_numpy(model.output)
        except InferenceServerException as exc:
            message = f"served model {model.name!r} at {server}: {exc.message()}"
            raise BuildError(message, hint="look into the server's log") from exc
        return np.asarray(answer, dtype=np.float32)

    def run(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        size = model.max_batch
        return np.concatenate([part(rows[i : i + size]) for i in range(0, len(rows), size)])

    return run
