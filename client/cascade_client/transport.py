"""The gRPC transports, and the door to all: the one file that imports tritonclient and grpc.

tritonclient brings Triton's protobuf schema. Its client classes are not used: they build each
request anew, know nothing of our errors, and need a second set of them for the event loop.
Messages are serialised once (`encode`) and sent as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from cascade_router.keys import GRPC_HEADER

from .address import Address
from .calls import (
    Array,
    AsyncTransport,
    Call,
    Counts,
    Index,
    IndexEntry,
    Infer,
    ModelConfig,
    ModelReady,
    ModelSpec,
    Parameters,
    Port,
    ServerLive,
    ServerMetadata,
    ServerName,
    ServerReady,
    Statistics,
    Transport,
    digest_of,
)
from .faults import from_grpc
from .tensors import array_from_raw, datatype_of, raw_from_array

__all__ = [
    "SERVICE",
    "TIMEOUT_S",
    "AsyncGrpcTransport",
    "GrpcCodec",
    "GrpcMessage",
    "GrpcTransport",
    "connect",
    "connect_async",
    "connect_load",
]

T = TypeVar("T")

TIMEOUT_S = 60.0
"""Longest wait for a reply where the call names none."""

SERVICE = "/inference.GRPCInferenceService/"
"""What every method's path starts with."""

_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def connect(url: str, *, timeout_s: float = TIMEOUT_S, key: str | None = None) -> Transport:
    """Open the transport that the url names; nothing is sent yet.

    Args:
        url: The server.
        timeout_s: Longest wait where the call names none.
        key: Sent with calls of interfaces that a guarded server restricts, and with no others.
    """
    address = Address.parse(url)
    if address.scheme == "grpc":
        return GrpcTransport(address, timeout_s, key)
    from .http_sync import HttpTransport

    return HttpTransport(address, timeout_s, key)


def connect_async(
    url: str, *, timeout_s: float = TIMEOUT_S, key: str | None = None
) -> AsyncTransport:
    """Open the asynchronous transport that the url names; call it inside the event loop."""
    address = Address.parse(url)
    if address.scheme == "grpc":
        return AsyncGrpcTransport(address, timeout_s, key)
    from .http_async import AsyncHttpTransport

    return AsyncHttpTransport(address, timeout_s, key)


def connect_load(url: str, *, timeout_s: float = TIMEOUT_S) -> AsyncTransport:
    """Open the transport of a load generator; call it inside the event loop."""
    address = Address.parse(url)
    if address.scheme == "grpc":
        from .lean import LeanGrpcTransport

        return LeanGrpcTransport(address, timeout_s)
    return connect_async(url, timeout_s=timeout_s)


@dataclass(frozen=True)
class GrpcMessage(Call[Any]):
    """A call as bytes.

    Attributes:
        method: Name of the remote procedure.
        payload: The serialised request.
        decode: Reads the serialised reply.
        timeout_s: Longest wait.
        guarded: A guarded server wants the key for it.
    """

    method: str
    payload: bytes
    decode: Callable[[bytes], Any]
    timeout_s: float
    guarded: bool = False


class GrpcTransport:
    """Blocking gRPC; may be used from several threads.

    Args:
        address: The server.
        timeout_s: Longest wait where the call names none.
        key: For guarded servers.
    """

    def __init__(self, address: Address, timeout_s: float, key: str | None = None) -> None:
        import grpc

        self._address = address
        self._codec = GrpcCodec(timeout_s)
        self._channel = grpc.insecure_channel(address.netloc, options=_OPTIONS)
        self._error = grpc.RpcError
        self._key = None if key is None else [(GRPC_HEADER, key)]
        self._methods: dict[str, Any] = {}

    def encode(self, call: Call[T]) -> Call[T]:
        """Serialise the request now."""
        return cast("Call[T]", self._codec.encode(call))

    def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        message = self._codec.encode(call)
        method = self._methods.get(message.method)
        if method is None:
            method = self._channel.unary_unary(SERVICE + message.method)
            self._methods[message.method] = method
        try:
            metadata = self._key if message.guarded else None
            raw = method(message.payload, timeout=message.timeout_s, metadata=metadata)
        except self._error as exc:
            where = str(self._address)
            raise from_grpc(exc.code().name, exc.details() or "", where=where) from exc
        return cast("T", message.decode(raw))

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class AsyncGrpcTransport:
    """gRPC whose waits are shared by one event loop.

    Args:
        address: The server.
        timeout_s: Longest wait where the call names none.
        key: For guarded servers.
    """

    def __init__(self, address: Address, timeout_s: float, key: str | None = None) -> None:
        import grpc

        self._address = address
        self._codec = GrpcCodec(timeout_s)
        self._channel = grpc.aio.insecure_channel(address.netloc, options=_OPTIONS)
        self._error = grpc.RpcError
        self._key = None if key is None else [(GRPC_HEADER, key)]
        self._methods: dict[str, Any] = {}

    def encode(self, call: Call[T]) -> Call[T]:
        """Serialise the request now."""
        return cast("Call[T]", self._codec.encode(call))

    async def send(self, call: Call[T]) -> T:
        """Ask and wait for the reply."""
        message = self._codec.encode(call)
        method = self._methods.get(message.method)
        if method is None:
            method = self._channel.unary_unary(SERVICE + message.method)
            self._methods[message.method] = method
        try:
            metadata = self._key if message.guarded else None
            raw = await method(message.payload, timeout=message.timeout_s, metadata=metadata)
        except self._error as exc:
            where = str(self._address)
            raise from_grpc(exc.code().name, exc.details() or "", where=where) from exc
        return cast("T", message.decode(raw))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class GrpcCodec:
    """Triton's gRPC messages from calls, and replies from messages."""

    def __init__(self, timeout_s: float) -> None:
        from tritonclient.grpc import model_config_pb2, service_pb2

        self._pb = service_pb2
        self._datatypes = model_config_pb2.DataType
        self._timeout_s = timeout_s

    def encode(self, call: Call[Any]) -> GrpcMessage:
        """Serialise a call; one that is a message already stays as it is."""
        pb = self._pb
        match call:
            case GrpcMessage():
                return call
            case Infer():
                timeout_s = self._timeout_s if call.timeout_s is None else call.timeout_s
                payload = self._infer(call).SerializeToString()
                return GrpcMessage("ModelInfer", payload, self._arrays, timeout_s)
            case ServerLive():
                return self._message("ServerLive", pb.ServerLiveRequest(), self._live)
            case ServerReady():
                return self._message("ServerReady", pb.ServerReadyRequest(), self._ready)
            case ModelReady():
                request = pb.ModelReadyRequest(name=call.model)
                return self._message("ModelReady", request, self._model_ready)
            case ServerMetadata():
                return self._message("ServerMetadata", pb.ServerMetadataRequest(), self._name)
            case ModelConfig():
                request = pb.ModelConfigRequest(name=call.model)
                return self._message("ModelConfig", request, self._spec)
            case Index():
                payload = pb.RepositoryIndexRequest().SerializeToString()
                return GrpcMessage(
                    "RepositoryIndex", payload, self._index, self._timeout_s, guarded=True
                )
            case Statistics():
                request = pb.ModelStatisticsRequest(name=call.model)
                return self._message("ModelStatistics", request, self._statistics)
            case _:
                message = f"{type(call).__name__} is no call that gRPC knows"
                raise TypeError(message)

    def _message(self, method: str, request: Any, decode: Callable[[bytes], Any]) -> GrpcMessage:
        return GrpcMessage(method, request.SerializeToString(), decode, self._timeout_s)

    def _infer(self, call: Infer) -> Any:
        request = self._pb.ModelInferRequest(model_name=call.model)
        for name, array in call.arrays.items():
            request.inputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
            request.raw_input_contents.append(raw_from_array(array))
        for name in call.outputs:
            request.outputs.add(name=name)
        _set_parameters(request.parameters, call.parameters)
        return request

    def _arrays(self, raw: bytes) -> dict[str, Array]:
        reply = self._pb.ModelInferResponse.FromString(raw)
        contents = reply.raw_output_contents
        return {
            out.name: array_from_raw(contents[i], out.datatype, out.shape)
            for i, out in enumerate(reply.outputs)
        }

    def _live(self, raw: bytes) -> bool:
        return bool(self._pb.ServerLiveResponse.FromString(raw).live)

    def _ready(self, raw: bytes) -> bool:
        return bool(self._pb.ServerReadyResponse.FromString(raw).ready)

    def _model_ready(self, raw: bytes) -> bool:
        return bool(self._pb.ModelReadyResponse.FromString(raw).ready)

    def _name(self, raw: bytes) -> ServerName:
        reply = self._pb.ServerMetadataResponse.FromString(raw)
        return ServerName(reply.name, reply.version)

    def _index(self, raw: bytes) -> list[IndexEntry]:
        reply = self._pb.RepositoryIndexResponse.FromString(raw)
        return [IndexEntry(m.name, m.version, m.state, m.reason) for m in reply.models]

    def _spec(self, raw: bytes) -> ModelSpec:
        config = self._pb.ModelConfigResponse.FromString(raw).config
        return ModelSpec(
            name=config.name,
            max_batch_size=config.max_batch_size,
            inputs=tuple(self._port(port) for port in config.input),
            outputs=tuple(self._port(port) for port in config.output),
            steps=tuple(step.model_name for step in config.ensemble_scheduling.step),
            digest=digest_of(config.SerializeToString(deterministic=True)),
        )

    def _port(self, port: Any) -> Port:
        name = self._datatypes.Name(port.data_type).removeprefix("TYPE_")
        return Port(port.name, "BYTES" if name == "STRING" else name, tuple(port.dims))

    def _statistics(self, raw: bytes) -> list[Counts]:
        from google.protobuf.json_format import MessageToDict

        reply = self._pb.ModelStatisticsResponse.FromString(raw)
        return [
            Counts.from_json(MessageToDict(model, preserving_proto_field_name=True))
            for model in reply.model_stats
        ]


def _set_parameters(target: Any, parameters: Parameters) -> None:
    for name, value in parameters.items():
        match value:
            case bool():
                target[name].bool_param = value
            case int():
                target[name].int64_param = value
            case float():
                target[name].double_param = value
            case _:
                target[name].string_param = value
