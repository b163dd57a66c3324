"""A running server, as a deployment needs it: load, look, ask one version.

Everything goes over gRPC: loading by HTTP would hold one of its few workers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from cascade_router.errors import NoAnswerError, ServerError, TierError
from cascade_router.keys import GRPC_HEADER, Keys

__all__ = [
    "FAILED",
    "READY",
    "UNLOADED",
    "NoServerError",
    "Running",
    "TritonServer",
    "told",
    "wait_until",
]

Array = npt.NDArray[Any]
T = TypeVar("T")

READY = "READY"
"""The state of a version that answers."""

FAILED = "UNAVAILABLE"
"""The state of a version that could not be loaded, or whose model died while loading."""

UNLOADED = "UNLOADED"
"""The state of a version that was taken out of service; Triton calls it unavailable too."""

_FIRST_ANSWER_S = 5.0
_LOAD_S = 600.0
_INFER_S = 60.0
_TAKEN_S = 1.0


class NoServerError(ServerError):
    """Nobody listens where the server is said to be."""


class Running(Protocol):
    """What a deployment asks of a server."""

    url: str

    def states(self) -> dict[str, dict[int, str]]:
        """Say the state of every version that is or was loaded, by model and version."""

    def load(self, model: str) -> None:
        """Have a model's folder looked at again, and wait until its versions are loaded.

        Raises:
            ServerError: If one of them cannot be; the others stay.
        """

    def unload(self, model: str) -> None:
        """Take a model out of service; what is under way is answered first."""

    def let_pass(self) -> None:
        """Wait until every request that came before now holds the versions that will answer it."""

    def ready(self) -> bool:
        """Say what Triton's own readiness says."""

    def step_version(self, ensemble: str, model: str) -> int:
        """Say which version of a model the ensemble that is loaded calls; -1: the newest."""

    def ask(
        self,
        model: str,
        version: int,
        inputs: Mapping[str, tuple[str, Array]],
        outputs: Sequence[str],
        parameters: Mapping[str, str] = {},
    ) -> dict[str, Array]:
        """Ask one version of a model.

        Args:
            model: Its name.
            version: It; -1: the newest loaded.
            inputs: Triton's dtype and (n, ...) rows, by name.
            outputs: Names.
            parameters: Of the request.

        Raises:
            TierError: If it answers with an error.
        """


class TritonServer:
    """A server that is reached by gRPC.

    Args:
        url: Host and gRPC port.
        keys: For servers that are guarded; None: none are sent.

    Raises:
        ServerError: By each method, if the server does not answer or forbids it.
    """

    def __init__(self, url: str, keys: Keys | None = None) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.url = url.removeprefix("grpc://")
        self._client = InferenceServerClient(self.url)
        has_key = keys is not None and keys.control is not None
        self._headers = {GRPC_HEADER: keys.control} if keys is not None and has_key else None

    def states(self) -> dict[str, dict[int, str]]:
        """Say the state of every version that is or was loaded."""
        index = self._call(
            lambda: self._client.get_model_repository_index(
                headers=self._headers, client_timeout=_FIRST_ANSWER_S
            )
        )
        out: dict[str, dict[int, str]] = {}
        for one in index.models:
            if one.version:  # a model that was never loaded has none
                state = UNLOADED if one.reason == "unloaded" else one.state
                out.setdefault(one.name, {})[int(one.version)] = state
        return out

    def load(self, model: str) -> None:
        """Have a model's folder looked at again."""
        self._call(
            lambda: self._client.load_model(model, headers=self._headers, client_timeout=_LOAD_S)
        )

    def unload(self, model: str) -> None:
        """Take a model out of service."""
        self._call(
            lambda: self._client.unload_model(model, headers=self._headers, client_timeout=_LOAD_S)
        )

    def let_pass(self) -> None:
        """Wait a second.

        Triton 2.51 looks up all versions that an ensemble calls when it begins with a request. A
        request that it has taken begins at once, but on a busy machine its thread may have to wait
        for a core, and nothing says so.
        """
        time.sleep(_TAKEN_S)

    def ready(self) -> bool:
        """Say what Triton's own readiness says."""
        return bool(
            self._call(lambda: self._client.is_server_ready(client_timeout=_FIRST_ANSWER_S))
        )

    def step_version(self, ensemble: str, model: str) -> int:
        """Say which version of a model the ensemble that is loaded calls."""
        config = self._call(
            lambda: self._client.get_model_config(ensemble, client_timeout=_FIRST_ANSWER_S)
        ).config
        steps = config.ensemble_scheduling.step
        return next((int(s.model_version) for s in steps if s.model_name == model), -1)

    def ask(
        self,
        model: str,
        version: int,
        inputs: Mapping[str, tuple[str, Array]],
        outputs: Sequence[str],
        parameters: Mapping[str, str] = {},
    ) -> dict[str, Array]:
        """Ask one version of a model."""
        from tritonclient.grpc import InferInput, InferRequestedOutput
        from tritonclient.utils import InferenceServerException

        given = []
        for name, (dtype, rows) in inputs.items():
            tensor = InferInput(name, list(rows.shape), dtype)
            tensor.set_data_from_numpy(np.ascontiguousarray(rows))
            given.append(tensor)
        try:
            reply = self._client.infer(
                model,
                given,
                model_version="" if version < 0 else str(version),
                outputs=[InferRequestedOutput(name) for name in outputs],
                parameters=dict(parameters) or None,
                client_timeout=_INFER_S,
            )
        except InferenceServerException as exc:
            message = f"{model} version {version} at {self.url}: {exc.message()}"
            raise TierError(message, hint="look into the server's log") from exc
        return {name: np.asarray(reply.as_numpy(name)) for name in outputs}

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    def _call(self, call: Callable[[], T]) -> T:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as exc:
            raise self._said(str(exc.status() or ""), str(exc.message() or "")) from exc

    def _said(self, status: str, text: str) -> ServerError:
        """Say in our words what the server says."""
        first = text.strip().splitlines()[0] if text.strip() else status
        if "UNAVAILABLE" in status and "connect" in text:
            message = f"no server answers at {self.url}"
            return NoServerError(message, hint="start it (`cascade-serve`), or give its gRPC --url")
        if "DEADLINE_EXCEEDED" in status:
            return NoAnswerError(f"{self.url}: no answer in time: {first}")
        if "not allowed" in text:
            message = f"{self.url}: the server does not load models on demand: {first}"
            hint = "start it with `cascade-serve`, or with --model-control-mode=explicit"
            return ServerError(message, hint=hint)
        if "protocol is restricted" in text:
            message = f"{self.url}: the server is guarded: {first}"
            return ServerError(message, hint="give its key file with --keys")
        return ServerError(f"{self.url}: {first}", hint="look into the server's log")


def wait_until(done: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Look again and again; say whether it was done in time."""
    end = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True


def told(server: Running, cascade: str) -> dict[str, Any]:
    """Ask the control model what the cascade says about itself.

    Raises:
        ServerError: If it does not answer.
    """
    command = np.array([json.dumps({"do": "show"}).encode()], dtype=np.object_)
    try:
        reply = server.ask(f"{cascade}_control", -1, {"COMMAND": ("BYTES", command)}, ["REPLY"])
    except TierError as error:
        message = f"{server.url}: cascade {cascade!r} is not served: {error.message}"
        raise ServerError(message, hint="`cascade-client status` shows what is served") from error
    said: dict[str, Any] = json.loads(reply["REPLY"].reshape(-1)[0])
    return said
