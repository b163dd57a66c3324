"""HTTP requests that are wrong, as bytes for a socket."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

import numpy as np

from .bad_values import BAD_PARAMETERS, BAD_SHAPES, any_of, hurt

__all__ = ["MUTATIONS", "Message", "message"]

Rng = np.random.Generator

_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """An inference request, in the parts it is made of.

    Attributes:
        model: Triton's model.
        head: The JSON in front.
        chunks: The tensors behind it.
        path: Replaces the path; None: that of the model.
        method: HTTP's.
        headers: Replace those of the same name; None: left out.
        raw: Replaces head and chunks.
    """

    model: str
    head: Any
    chunks: bytes
    path: str | None = None
    method: str = "POST"
    headers: tuple[tuple[str, str | None], ...] = ()
    raw: bytes | None = None

    def to_bytes(self) -> bytes:
        """Write what goes over the wire."""
        head = json.dumps(self.head).encode()
        body = head + self.chunks if self.raw is None else self.raw
        fields: dict[str, str | None] = {
            "Host": "localhost",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(body)),
            _LENGTH: str(len(head)),
            "Connection": "close",
        }
        fields |= dict(self.headers)
        path = f"/v2/models/{quote(self.model)}/infer" if self.path is None else self.path
        lines = [f"{self.method} {path} HTTP/1.1"]
        lines += [f"{key}: {value}" for key, value in fields.items() if value is not None]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body


def message(model: str, name: str, datatype: str, shape: list[int], raw: bytes) -> Message:
    """Make a good request of one tensor."""
    tensor = {
        "name": name,
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    return Message(model=model, head={"inputs": [tensor], "parameters": {}}, chunks=raw)


def _tensor(given: Message, **values: Any) -> Message:
    head = copy.deepcopy(given.head)
    head["inputs"][0].update(values)
    return replace(given, head=head)


def _head(given: Message, **values: Any) -> Message:
    return replace(given, head={**given.head, **values})


def _shape(rng: Rng, given: Message) -> Message:
    more: tuple[Any, ...] = (None, "4", [1.5, 4], [[1], [4]], {"0": 1}, ["1", "4"], [2**64, 4])
    return _tensor(given, shape=any_of(rng, (*BAD_SHAPES, *more)))


def _dtype(rng: Rng, given: Message) -> Message:
    bad = ("FP64", "FP16", "INT32", "BYTES", "BF16", "FP99", "", None, 7, "FP32\0", "x" * 10_000)
    return _tensor(given, datatype=any_of(rng, bad))


def _name(rng: Rng, given: Message) -> Message:
    return _tensor(given, name=any_of(rng, ("Y", "", None, 5, "x" * 100_000, "\0", "../X", "ÿ")))


def _size(rng: Rng, given: Message) -> Message:
    size = any_of(rng, (0, 1, -1, 2**31, 2**63, 2**64, "16", None, 15, 17, 1.5))
    return _tensor(given, parameters={"binary_data_size": size})


def _parameter(rng: Rng, given: Message) -> Message:
    key, value = any_of(rng, BAD_PARAMETERS)
    return _head(given, parameters={key: value})


def _no_text(_rng: Rng, given: Message) -> Message:
    """Send a parameter whose text is no UTF-8."""
    head = json.dumps(_head(given, parameters={"cascade_point": "?"}).head).encode()
    head = head.replace(b'"?"', b'"\xff"')
    return replace(given, raw=head + given.chunks, headers=((_LENGTH, str(len(head))),))


def _odd_parameter(rng: Rng, given: Message) -> Message:
    bad: tuple[Any, ...] = (None, [], {}, [1], {"a": {"b": 1}}, [[["x"]]], 10**400, -0.0)
    return _head(given, parameters={"cascade_point": any_of(rng, bad)})


def _reserved(rng: Rng, given: Message) -> Message:
    key = any_of(rng, ("sequence_id", "priority", "timeout", "sequence_start", "triton_x"))
    return _head(given, parameters={key: any_of(rng, (-1, 0, 1, 2**63, "x", True, 0.5, None, []))})


def _region(rng: Rng, given: Message) -> Message:
    region = any_of(rng, ("nobody", "", "../../dev/shm/x", "x" * 5000))
    values = {"shared_memory_region": region, "shared_memory_byte_size": 16}
    return _tensor(given, parameters=values)


def _outputs(rng: Rng, given: Message) -> Message:
    bad: tuple[Any, ...] = (
        *([{"name": "NO_SUCH"}], [{}], {}, "LABEL", [None], [{"name": 5}]),
        [{"name": "LABEL"}] * 3,
        [{"name": "LABEL", "parameters": {"classification": -3}}],
        [{"name": "SCORES", "parameters": {"classification": 10**9}}],
        [{"name": "LABEL", "parameters": {"shared_memory_region": "nobody"}}],
    )
    return _head(given, outputs=any_of(rng, bad))


def _inputs(rng: Rng, given: Message) -> Message:
    one = given.head["inputs"][0]
    bad: tuple[Any, ...] = ([], None, {}, "X", [one, one], [one] * 50, [None], [{}], [[one]])
    return _head(given, inputs=any_of(rng, bad))


def _json_data(rng: Rng, given: Message) -> Message:
    """Send the tensor as JSON numbers, which are none, too many, or too large."""
    bad: tuple[Any, ...] = (
        *([], [1, 2, 3], [[1, 2], [3, 4]], ["a"] * 4, [None] * 4, [1e39] * 4, [1] * 100_000),
        [{}, {}, {}, {}],
        "1234",
    )
    made = _tensor(given, data=any_of(rng, bad), parameters={})
    return replace(made, chunks=b"", headers=((_LENGTH, None),))


def _head_length(rng: Rng, given: Message) -> Message:
    bad = ("0", "-1", "1", "9", "99999999", "18446744073709551616", "abc", "", "1e3", None)
    return replace(given, headers=((_LENGTH, any_of(rng, bad)),))


def _content_length(rng: Rng, given: Message) -> Message:
    """Promise more or less than is sent; then half of the connection is closed."""
    bad = ("0", "-1", "7", "100000", "999999999999", "abc", None)
    return replace(given, headers=(("Content-Length", any_of(rng, bad)),))


def _encoding(rng: Rng, given: Message) -> Message:
    key, value = any_of(
        rng,
        (
            ("Content-Encoding", "gzip"),
            ("Content-Encoding", "deflate"),
            ("Content-Encoding", "zstd"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Type", "x" * 5000),
            ("Expect", "100-continue"),
            ("Accept-Encoding", "gzip, \0"),
        ),
    )
    return replace(given, headers=((key, value),))


def _path(rng: Rng, given: Message) -> Message:
    model = given.model
    bad = (
        f"/v2/models/{model}/versions/999/infer",
        f"/v2/models/{model}/versions/-1/infer",
        f"/v2/models/{model}/versions/x/infer",
        "/v2/models/../../etc/passwd/infer",
        "/v2/models/%00/infer",
        f"/v2/models/{'x' * 5000}/infer",
        f"/v2/models/{model}/infer/infer",
        f"/v2/models/{model}%2f..%2f{model}/infer",
        "/",
        "",
        "*",
    )
    return replace(given, path=any_of(rng, bad))


def _method(rng: Rng, given: Message) -> Message:
    return replace(given, method=any_of(rng, ("GET", "PUT", "DELETE", "PATCH", "X", "", "post")))


def _not_json(rng: Rng, given: Message) -> Message:
    n = int(rng.integers(1, 100_000))
    body = any_of(rng, (b"[" * n, b'{"a":' * n, b"null", b"", b"{", b"\xff\xfe{}", rng.bytes(64)))
    return replace(given, raw=body, headers=((_LENGTH, str(len(body))),))


def _hurt_head(rng: Rng, given: Message) -> Message:
    head = hurt(rng, json.dumps(given.head).encode())
    return replace(given, raw=head + given.chunks, headers=((_LENGTH, str(len(head))),))


def _hurt_body(rng: Rng, given: Message) -> Message:
    body = json.dumps(given.head).encode() + given.chunks
    return replace(given, raw=hurt(rng, body))


def _cut(rng: Rng, given: Message) -> bytes:
    whole = given.to_bytes()
    return whole[: int(rng.integers(1, len(whole)))]


def _hurt_all(rng: Rng, given: Message) -> bytes:
    return hurt(rng, given.to_bytes())


Mutation = Callable[[Rng, Message], Message | bytes]

MUTATIONS: tuple[Mutation, ...] = (
    *(_shape, _dtype, _name, _size, _parameter, _parameter, _no_text, _odd_parameter, _reserved),
    *(
        _region,
        _outputs,
        _inputs,
        _json_data,
        _head_length,
        _content_length,
        _encoding,
        _path,
        _method,
    ),
    *(_not_json, _hurt_head, _hurt_body, _cut, _hurt_all),
)
"""Ways to make a request wrong."""
