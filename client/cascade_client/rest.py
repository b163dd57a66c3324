"""Triton's HTTP protocol: messages from calls and replies from messages, without I/O.

Tensors travel as binary after a JSON head (the KServe binary extension), never as JSON numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from cascade_router.errors import ServerError
from cascade_router.keys import HEADER

from .calls import (
    Array,
    Call,
    Counts,
    Index,
    IndexEntry,
    Infer,
    ModelConfig,
    ModelReady,
    ModelSpec,
    Port,
    ServerLive,
    ServerMetadata,
    ServerName,
    ServerReady,
    Statistics,
    digest_of,
)
from .faults import from_http
from .tensors import array_from_raw, datatype_of, raw_from_array

__all__ = ["HttpMessage", "HttpReply", "decode", "encode"]

T = TypeVar("T")

HEAD_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class HttpReply:
    """What came back.

    Attributes:
        code: HTTP status.
        headers: By name, in any case.
        body: The rest, as it was before any compression.
    """

    code: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class HttpMessage(Call[Any]):
    """A call as method, path and body.

    Attributes:
        method: HTTP's.
        path: After the address.
        decode: Reads the reply.
        timeout_s: Longest wait.
        body: What is sent.
        headers: And under which headers.
        probe: The status code is the answer, whatever it is.
        guarded: A guarded server wants the key for it.
    """

    method: str
    path: str
    decode: Callable[[HttpReply], Any]
    timeout_s: float
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    probe: bool = False
    guarded: bool = False

    def headers_with(self, key: str | None) -> dict[str, str]:
        """Name the headers, with the key where it is wanted and there is one."""
        own = dict(self.headers)
        return {**own, HEADER: key} if self.guarded and key is not None else own


def encode(call: Call[Any], timeout_s: float) -> HttpMessage:
    """Write a call; one that is a message already stays as it is."""
    match call:
        case HttpMessage():
            return call
        case Infer():
            return _infer(call, timeout_s)
        case ServerLive():
            return HttpMessage("GET", "/v2/health/live", _ok, timeout_s, probe=True)
        case ServerReady():
            return HttpMessage("GET", "/v2/health/ready", _ok, timeout_s, probe=True)
        case ModelReady():
            path = f"{_model(call.model)}/ready"
            return HttpMessage("GET", path, _ok, timeout_s, probe=True)
        case ServerMetadata():
            return HttpMessage("GET", "/v2", _name, timeout_s)
        case ModelConfig():
            return HttpMessage("GET", f"{_model(call.model)}/config", _spec, timeout_s)
        case Index():
            path = "/v2/repository/index"
            return HttpMessage("POST", path, _index, timeout_s, body=b"{}", guarded=True)
        case Statistics():
            return HttpMessage("GET", f"{_model(call.model)}/stats", _statistics, timeout_s)
        case _:
            message = f"{type(call).__name__} is no call that HTTP knows"
            raise TypeError(message)


def decode(message: HttpMessage, reply: HttpReply, where: str) -> Any:
    """Read a reply.

    Raises:
        CascadeError: If it says that the call failed, or is no reply of Triton's.
    """
    if not message.probe and not 200 <= reply.code < 300:
        raise from_http(reply.code, _complaint(reply.body), where=where)
    try:
        return message.decode(reply)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        text = f"{where}{message.path}: the reply is not what Triton sends: {exc}"
        raise ServerError(text, hint="is --url the address of a Triton server?") from exc


def _model(name: str) -> str:
    return f"/v2/models/{quote(name, safe='')}"


def _infer(call: Infer, timeout_s: float) -> HttpMessage:
    inputs, chunks = [], []
    for name, array in call.arrays.items():
        raw = raw_from_array(array)
        chunks.append(raw)
        inputs.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of(array),
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    values: dict[str, Any] = {
        "inputs": inputs,
        "parameters": {**call.parameters, "binary_data_output": True},
    }
    if call.outputs:
        binary = {"binary_data": True}
        values["outputs"] = [{"name": name, "parameters": binary} for name in call.outputs]
    head = json.dumps(values).encode()
    return HttpMessage(
        "POST",
        f"{_model(call.model)}/infer",
        _arrays,
        timeout_s if call.timeout_s is None else call.timeout_s,
        body=b"".join([head, *chunks]),
        headers={HEAD_LENGTH: str(len(head)), "content-type": "application/octet-stream"},
    )


def _arrays(reply: HttpReply) -> dict[str, Array]:
    n = int(reply.headers.get(HEAD_LENGTH, len(reply.body)))  # absent: all of it is JSON
    out, at = {}, n
    for entry in json.loads(reply.body[:n])["outputs"]:
        size = entry["parameters"]["binary_data_size"]
        raw = reply.body[at : at + size]
        out[entry["name"]] = array_from_raw(raw, entry["datatype"], entry["shape"])
        at += size
    return out


def _ok(reply: HttpReply) -> bool:
    return reply.code == 200


def _statistics(reply: HttpReply) -> list[Counts]:
    return [Counts.from_json(values) for values in json.loads(reply.body)["model_stats"]]


def _name(reply: HttpReply) -> ServerName:
    values = json.loads(reply.body)
    return ServerName(values["name"], values["version"])


def _index(reply: HttpReply) -> list[IndexEntry]:
    return [
        IndexEntry(m["name"], m.get("version", ""), m.get("state", ""), m.get("reason", ""))
        for m in json.loads(reply.body)
    ]


def _spec(reply: HttpReply) -> ModelSpec:
    config = json.loads(reply.body)
    steps = config.get("ensemble_scheduling", {}).get("step", [])
    return ModelSpec(
        name=config["name"],
        max_batch_size=config["max_batch_size"],
        inputs=tuple(_port(port) for port in config["input"]),
        outputs=tuple(_port(port) for port in config["output"]),
        steps=tuple(step["model_name"] for step in steps),
        digest=digest_of(reply.body),
    )


def _port(port: Mapping[str, Any]) -> Port:
    name = port["data_type"].removeprefix("TYPE_")
    shape = tuple(int(n) for n in port["dims"])
    return Port(port["name"], "BYTES" if name == "STRING" else name, shape)


def _complaint(body: bytes) -> str:
    text = body.decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text
