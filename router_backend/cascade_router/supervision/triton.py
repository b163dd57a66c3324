"""What the supervisor asks a server: the one file here that imports gRPC.

Model control goes over gRPC, because over HTTP a load holds one of the few threads that answer
requests. Whatever fails is told as data: to a supervisor a failed call is news, not an error.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy.typing as npt

from cascade_router.keys import GRPC_HEADER

__all__ = ["Ask", "GrpcTriton", "Known", "Outcome", "Port", "Reply", "Triton", "Version"]

_STUB = re.compile(r"Stub process '(?P<model>.+)_\d+_\d+' is not healthy")
_BUSY = re.compile(r"exceeds maximum queue size|queue( is)? full|timeout expired", re.IGNORECASE)

Array = npt.NDArray[Any]


class Outcome(Enum):
    """How a canary fared."""

    ANSWERED = "answered"
    BUSY = "busy"
    """Refused for a full queue: it is alive."""
    LATE = "late"
    """No answer in time."""
    FAILED = "failed"
    DEAD = "dead"
    """The process of a model is dead or stopped, says the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came of a call.

    Attributes:
        outcome: How it fared.
        why: The server's words where it did not answer.
        culprit: Model whose process is dead; empty: not said.
        outputs: Answered only: tensors by name; BYTES as they travel.
    """

    outcome: Outcome
    why: str = ""
    culprit: str = ""
    outputs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input: Triton's word for its type, and its shape without the batch (-1: any)."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a model's configuration says that matters here.

    Attributes:
        name: The model.
        batches: Whether its tensors have a batch dimension.
        inputs: Those that a request must have.
        steps: Models that an ensemble runs; empty for others.
        plain: One request, one response, no sequence: what a canary can be.
    """

    name: str
    batches: bool
    inputs: tuple[Port, ...]
    steps: tuple[str, ...] = ()
    plain: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a model in the index."""

    model: str
    version: str
    state: str
    reason: str

    @property
    def ready(self) -> bool:
        """Whether it is loaded."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request to a model.

    Attributes:
        model: The model.
        arrays: Inputs by name, batch included; object arrays of bytes are BYTES.
        parameters: Whole numbers.
        version: Of the model; empty: the newest.
    """

    model: str
    arrays: Mapping[str, Array]
    parameters: Mapping[str, int] = field(default_factory=dict)
    version: str = ""


class Triton(Protocol):
    """A server as the supervisor sees it; every call is bounded in time."""

    def live(self) -> bool:
        """Say whether it answers at all."""

    def index(self) -> list[Version] | str:
        """List what it has loaded, or say why it does not tell."""

    def known(self, model: str) -> Known | None:
        """Read a model's configuration; None where it does not tell."""

    def work_done(self) -> dict[str, int]:
        """Count, by model, what was run since it was loaded; empty where it does not tell."""

    def ask(self, asks: Sequence[Ask], timeout_s: float) -> list[Reply]:
        """Send requests at once and wait for all."""

    def unload(self, models: Sequence[str]) -> dict[str, str]:
        """Unload models at once; say by model what went wrong."""

    def load(self, models: Sequence[str], timeout_s: float) -> dict[str, str]:
        """Load models at once; say by model what went wrong."""

    def close(self) -> None:
        """Let the connection go."""


_CALL_S = 3.0
_POLL_S = 0.02
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # it is on this machine
    ("grpc.max_reconnect_backoff_ms", 500),  # a server that comes back is seen at once
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcTriton:
    """A server by gRPC.

    Args:
        address: ``host:port``.
        control_key: Where its model control is guarded.
        give_up: Whether to wait no longer for a load.
        hurry: Whether to wait no longer for an unload either.
    """

    def __init__(
        self,
        address: str,
        control_key: str | None = None,
        *,
        give_up: Callable[[], bool] = lambda: False,
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self._pb = service_pb2
        self._error = grpc.RpcError
        self._cancelled = grpc.FutureCancelledError
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._give_up, self._hurry = give_up, hurry
        self._metadata = [] if control_key is None else [(GRPC_HEADER, control_key)]

    def live(self) -> bool:
        """Say whether it answers at all."""
        try:
            return bool(self._stub.ServerLive(self._pb.ServerLiveRequest(), timeout=_CALL_S).live)
        except self._error:
            return False

    def index(self) -> list[Version] | str:
        """List what it has loaded, or say why it does not tell."""
        request = self._pb.RepositoryIndexRequest()
        try:
            reply = self._stub.RepositoryIndex(request, timeout=_CALL_S, metadata=self._metadata)
        except self._error as exc:
            return str(exc.details() or exc.code().name)
        return [
            Version(model=m.name, version=m.version, state=m.state, reason=m.reason)
            for m in reply.models
        ]

    def known(self, model: str) -> Known | None:
        """Read a model's configuration; None where it does not tell."""
        try:
            request = self._pb.ModelConfigRequest(name=model)
            config = self._stub.ModelConfig(request, timeout=_CALL_S).config
        except self._error:
            return None
        from tritonclient.grpc.model_config_pb2 import DataType

        return Known(
            name=model,
            batches=config.max_batch_size > 0,
            inputs=tuple(
                Port(
                    name=port.name,
                    datatype=DataType.Name(port.data_type).removeprefix("TYPE_"),
                    shape=tuple(port.dims),
                )
                for port in config.input
                if not port.optional
            ),
            steps=tuple(step.model_name for step in config.ensemble_scheduling.step),
            plain=not config.model_transaction_policy.decoupled
            and not config.HasField("sequence_batching"),
        )

    def work_done(self) -> dict[str, int]:
        """Count, by model, what was run since it was loaded; empty where it does not tell."""
        try:
            reply = self._stub.ModelStatistics(
                self._pb.ModelStatisticsRequest(), timeout=_CALL_S, metadata=self._metadata
            )
        except self._error:
            return {}
        done: dict[str, int] = {}
        for one in reply.model_stats:
            count = one.execution_count + one.inference_stats.success.count
            done[one.name] = done.get(one.name, 0) + int(count)
        return done

    def ask(self, asks: Sequence[Ask], timeout_s: float) -> list[Reply]:
        """Send requests at once and wait for all."""
        calls = [self._stub.ModelInfer.future(self._infer(a), timeout=timeout_s) for a in asks]
        return [self._reply(call) for call in calls]

    def unload(self, models: Sequence[str]) -> dict[str, str]:
        """Unload models at once; say by model what went wrong."""
        request = self._pb.RepositoryModelUnloadRequest
        unload = self._stub.RepositoryModelUnload
        return self._control(unload, request, models, 10.0, self._hurry)

    def load(self, models: Sequence[str], timeout_s: float) -> dict[str, str]:
        """Load models at once; say by model what went wrong."""
        request = self._pb.RepositoryModelLoadRequest
        load = self._stub.RepositoryModelLoad
        return self._control(load, request, models, timeout_s, self._give_up)

    def close(self) -> None:
        """Let the connection go."""
        self._channel.close()

    def _control(
        self,
        method: Any,
        request: Any,
        models: Sequence[str],
        timeout_s: float,
        give_up: Callable[[], bool],
    ) -> dict[str, str]:
        metadata = self._metadata
        calls = {
            model: method.future(request(model_name=model), timeout=timeout_s, metadata=metadata)
            for model in models
        }
        faults: dict[str, str] = {}
        for model, call in calls.items():
            while not call.done() and not give_up():
                time.sleep(_POLL_S)
            if not call.done():
                call.cancel()
            try:
                call.result()
            except self._cancelled:
                faults[model] = "given up"
            except self._error as exc:
                faults[model] = str(exc.details() or exc.code().name)
        return faults

    def _infer(self, ask: Ask) -> Any:
        request = self._pb.ModelInferRequest(
            model_name=ask.model, model_version=ask.version, id="canary"
        )
        for name, array in ask.arrays.items():
            request.inputs.add(name=name, datatype=_datatype(array), shape=array.shape)
            request.raw_input_contents.append(_raw(array))
        for name, value in ask.parameters.items():
            request.parameters[name].int64_param = value
        return request

    def _reply(self, call: Any) -> Reply:
        try:
            reply = call.result()
        except self._error as exc:
            return _failed(exc.code().name, str(exc.details() or ""))
        raw = reply.raw_output_contents
        outputs = {port.name: raw[i] for i, port in enumerate(reply.outputs)}
        return Reply(outcome=Outcome.ANSWERED, outputs=outputs)


def _failed(code: str, text: str) -> Reply:
    found = _STUB.search(text)
    if found:
        return Reply(outcome=Outcome.DEAD, why=text, culprit=found["model"])
    if code == "DEADLINE_EXCEEDED":
        return Reply(outcome=Outcome.LATE, why="no answer in time")
    if code == "RESOURCE_EXHAUSTED" or _BUSY.search(text):
        return Reply(outcome=Outcome.BUSY, why=text)
    return Reply(outcome=Outcome.FAILED, why=text.partition("\n")[0] or code)


def _datatype(array: Array) -> str:
    if array.dtype == object:
        return "BYTES"
    kinds = {"f": "FP", "i": "INT", "u": "UINT"}
    if array.dtype.kind == "b":
        return "BOOL"
    return f"{kinds[array.dtype.kind]}{8 * array.dtype.itemsize}"


def _raw(array: Array) -> bytes:
    if array.dtype != object:
        return array.tobytes()
    return b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())
