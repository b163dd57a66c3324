"""A served cascade as the client sees it: behind the transport seam, or on loopback by gRPC/HTTP.

The cascade ``pitch`` takes rows ``FRAME`` FP32 [3] = (label, score, poison): a row exits at tier 0
when its score reaches the threshold of its point, else at tier 1. A NaN poison is refused.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from cascade_client.calls import (
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
    as_bytes,
)
from cascade_client.tensors import array_from_raw, datatype_of, raw_from_array
from cascade_router.errors import (
    BusyError,
    CascadeError,
    NoAnswerError,
    NotReadyError,
    RequestError,
    TierError,
)
from cascade_router.gate import Gate
from cascade_router.policy import OperatingPoint, Policy, Tier

N_CLASSES = 4

POLICY = Policy(
    cascade="pitch",
    activation="softmax",
    n_classes=N_CLASSES,
    tiers=(
        Tier(name="tiny", model="pitch_tiny", digest="sha256:0", cost_ms={1: 2.0}),
        Tier(name="full", model="pitch_full", digest="sha256:1"),
    ),
    points=(
        OperatingPoint(
            name="fast", gates=(Gate(threshold=0.25), Gate()), measured={"agreement": 0.9}
        ),
        OperatingPoint(
            name="sure",
            gates=(Gate(threshold=0.75), Gate()),
            certificate={"promise": "agreement >= 0.99", "level": 0.95},
        ),
    ),
    default="sure",
    provenance={"made_by": "a test"},
)

_ANSWERS = (
    Port("SCORES", "FP32", (N_CLASSES,)),
    Port("LABEL", "INT32", (1,)),
    Port("CONFIDENCE", "FP32", (1,)),
    Port("TIER", "INT32", (1,)),
    Port("DEGRADED", "INT32", (1,)),
)


def row(label: int, score: float, poison: float = 0.0):
    return np.array([label, score, poison], dtype=np.float32)


class FakeCascade:
    """Answers calls; remembers them.

    Attributes:
        calls: What was asked.
        down: Models that are not ready.
        fail: Raised by the next inferences, one each.
        full_failed: Tier 1 is down: its rows are answered by tier 0.
    """

    def __init__(self, port: Port | None = None, labels=("do", "re", "mi", "fa")):
        self.calls: list[object] = []
        self.down: set[str] = set()
        self.fail: list[CascadeError] = []
        self.full_failed = False
        self.labels = labels
        frame = port or Port("FRAME", "FP32", (3,))
        command, reply = (Port("COMMAND", "BYTES", (1,)),), (Port("REPLY", "BYTES", (1,)),)
        logits = (Port("LOGITS", "FP32", (N_CLASSES,)),)
        self.models = {
            "pitch": ModelSpec("pitch", 4, (frame,), _ANSWERS, ("pitch_router",)),
            "pitch_control": ModelSpec("pitch_control", 0, command, reply),
            "pitch_full": ModelSpec("pitch_full", 4, (frame,), logits),
            "pitch_router": ModelSpec("pitch_router", 4, (frame,), _ANSWERS),
            "pitch_tiny": ModelSpec("pitch_tiny", 4, (frame,), logits),
        }

    def send(self, call):
        self.calls.append(call)
        match call:
            case Infer():
                return self._infer(call)
            case ServerLive():
                return True
            case ServerReady():
                return not self.down
            case ModelReady():
                return call.model in self.models and call.model not in self.down
            case ServerMetadata():
                return ServerName("triton", "2.51.0")
            case ModelConfig():
                self._known(call.model)
                return self.models[call.model]
            case Index():
                return [self._entry(name) for name in sorted(self.models)]
            case Statistics():
                self._known(call.model)
                return [Counts("1", 7, 2, 3, 6.0, 8.0)]
        raise AssertionError(call)

    def encode(self, call):
        return call

    def close(self):
        pass

    @property
    def inferences(self) -> list[Infer]:
        return [c for c in self.calls if isinstance(c, Infer) and c.model != "pitch_control"]

    def _entry(self, name):
        state = "UNAVAILABLE" if name in self.down else "READY"
        return IndexEntry(name, "1", state, "it fell over" if name in self.down else "")

    def _known(self, model):
        if model not in self.models:
            message = f"Request for unknown model: '{model}' is not found"
            raise RequestError(message)
        if model in self.down:
            message = f"Request for unknown model: '{model}' has no available versions"
            raise NotReadyError(message)

    def _infer(self, call):
        self._known(call.model)
        if call.model == "pitch_control":
            assert json.loads(call.arrays["COMMAND"][0]) == {"do": "show"}
            reply = {
                "policy": json.loads(POLICY.to_json()),
                "manifest": {"built": "now"},
                "default_point": "sure",
                "history": [],
                "labels": list(self.labels),
            }
            return {"REPLY": as_bytes([json.dumps(reply).encode()])}
        if self.fail:
            raise self.fail.pop(0)
        (values,) = call.arrays.values()
        if values.dtype == object:  # pictures: as many bytes as the label says
            values = np.array([row(len(v[0]) % N_CLASSES, 1.0) for v in values])
        if np.isnan(values).any():
            message = "input FRAME: got NaN"
            raise RequestError(message)
        scores = np.eye(N_CLASSES, dtype=np.float32)[values[:, 0].astype(int) % N_CLASSES]
        if call.model in ("pitch_tiny", "pitch_full"):
            return {"LOGITS": scores}
        out = self._answers(values, scores, call.parameters)
        return {k: v for k, v in out.items() if not call.outputs or k in call.outputs}

    def _answers(self, values, scores, parameters):
        point = POLICY.points[POLICY.index(parameters.get("cascade_point", "sure"))]
        tier = (values[:, 1] < point.gates[0].threshold).astype(np.int32)
        low, high = parameters.get("cascade_min_tier", 0), parameters.get("cascade_max_tier", 1)
        label = scores.argmax(axis=1).astype(np.int32)
        answered = np.clip(tier, low, high)
        degraded = np.zeros(len(values), dtype=np.int32)
        if self.full_failed:
            degraded[answered == 1] = 1
            answered = np.zeros_like(answered)
        return {
            "SCORES": scores,
            "LABEL": label[:, None],
            "CONFIDENCE": scores.max(axis=1)[:, None],
            "TIER": answered[:, None].astype(np.int32),
            "DEGRADED": degraded[:, None],
        }


class AsyncFake:
    """The same behind the asynchronous seam; each answer takes some of the loop's time."""

    def __init__(self, fake: FakeCascade, service_s: float = 0.0):
        self.fake, self.service_s = fake, service_s
        self.closed = False
        self.most_at_once = self._at_once = 0

    def encode(self, call):
        return call

    async def send(self, call):
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(self.service_s)
            return self.fake.send(call)
        finally:
            self._at_once -= 1

    async def close(self):
        self.closed = True


_GRPC = {
    RequestError: "INVALID_ARGUMENT",
    BusyError: "UNAVAILABLE",
    NotReadyError: "UNAVAILABLE",
    NoAnswerError: "DEADLINE_EXCEEDED",
    TierError: "INTERNAL",
}
_HTTP = {RequestError: 400, BusyError: 503, NotReadyError: 503, NoAnswerError: 504, TierError: 500}


@contextmanager
def serve_grpc(fake: FakeCascade):
    """Serve on a free loopback port by gRPC; yields ``host:port``."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            method = details.method.rsplit("/", 1)[1]

            def answer(raw, context):
                try:
                    return _grpc_reply(fake, method, raw)
                except CascadeError as exc:
                    context.abort(getattr(grpc.StatusCode, _GRPC[type(exc)]), str(exc))

            return grpc.unary_unary_rpc_method_handler(answer)

    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Handler()], options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _grpc_reply(fake, method, raw):
    from google.protobuf import json_format
    from tritonclient.grpc import service_pb2 as pb

    match method:
        case "ModelInfer":
            request = pb.ModelInferRequest.FromString(raw)
            arrays = {
                tensor.name: array_from_raw(content, tensor.datatype, tensor.shape)
                for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
            }
            parameters = {
                name: getattr(value, value.WhichOneof("parameter_choice"))
                for name, value in request.parameters.items()
            }
            outputs = tuple(output.name for output in request.outputs)
            reply = pb.ModelInferResponse(model_name=request.model_name)
            infer = Infer(request.model_name, arrays, parameters, outputs)
            for name, array in fake.send(infer).items():
                reply.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
                reply.raw_output_contents.append(raw_from_array(array))
        case "ServerLive":
            reply = pb.ServerLiveResponse(live=fake.send(ServerLive()))
        case "ServerReady":
            reply = pb.ServerReadyResponse(ready=fake.send(ServerReady()))
        case "ModelReady":
            model = pb.ModelReadyRequest.FromString(raw).name
            reply = pb.ModelReadyResponse(ready=fake.send(ModelReady(model)))
        case "ServerMetadata":
            name = fake.send(ServerMetadata())
            reply = pb.ServerMetadataResponse(name=name.name, version=name.version)
        case "ModelConfig":
            spec = fake.send(ModelConfig(pb.ModelConfigRequest.FromString(raw).name))
            reply = json_format.ParseDict({"config": _config(spec)}, pb.ModelConfigResponse())
        case "RepositoryIndex":
            reply = json_format.ParseDict(
                {"models": [_json_of(e) for e in fake.send(Index())]}, pb.RepositoryIndexResponse()
            )
        case "ModelStatistics":
            counts = fake.send(Statistics(pb.ModelStatisticsRequest.FromString(raw).name))
            reply = json_format.ParseDict(_stats(counts), pb.ModelStatisticsResponse())
        case _:
            raise AssertionError(method)
    return reply.SerializeToString()


@contextmanager
def serve_http(fake: FakeCascade, host: str = "127.0.0.1", compress=None):
    """Serve on a free port of a loopback address by HTTP; yields the url.

    ``compress`` is applied to every body, which is then said to be gzip.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_GET(self):
            self._reply(b"")

        def do_POST(self):
            self._reply(self.rfile.read(int(self.headers["Content-Length"])))

        def _reply(self, body):
            head = self.headers.get("Inference-Header-Content-Length")
            try:
                code, content, head = _http_reply(fake, self.path, body, int(head or 0))
            except CascadeError as exc:
                code, head = _HTTP[type(exc)], 0
                content = json.dumps({"error": str(exc)}).encode()
            self.send_response(code)
            if compress:
                content = compress(content)
                self.send_header("Content-Encoding", "gzip")
            if head:
                self.send_header("Inference-Header-Content-Length", str(head))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    class HttpServer(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        request_queue_size = 128  # as many as connect at once in a test
        daemon_threads = True

    server = HttpServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _http_reply(fake, path, body, head):
    parts = path.strip("/").split("/")[1:]
    match parts:
        case ["models", model, "infer"]:
            values, at, arrays = json.loads(body[:head]), head, {}
            for tensor in values["inputs"]:
                stop = at + tensor["parameters"]["binary_data_size"]
                raw = body[at:stop]
                arrays[tensor["name"]] = array_from_raw(raw, tensor["datatype"], tensor["shape"])
                at = stop
            outputs = tuple(output["name"] for output in values.get("outputs", []))
            parameters = values["parameters"]
            assert parameters.pop("binary_data_output")
            reply = fake.send(Infer(model, arrays, parameters, outputs))
            raws = {name: raw_from_array(array) for name, array in reply.items()}
            entries = [
                {
                    "name": name,
                    "datatype": datatype_of(array),
                    "shape": list(array.shape),
                    "parameters": {"binary_data_size": len(raws[name])},
                }
                for name, array in reply.items()
            ]
            text = json.dumps({"outputs": entries}).encode()
            return 200, text + b"".join(raws.values()), len(text)
        case ["health", "live"]:
            return (200 if fake.send(ServerLive()) else 400), b"", 0
        case ["health", "ready"]:
            return (200 if fake.send(ServerReady()) else 400), b"", 0
        case ["models", model, "ready"]:
            return (200 if fake.send(ModelReady(model)) else 400), b"", 0
        case []:
            name = fake.send(ServerMetadata())
            values = {"name": name.name, "version": name.version}
        case ["models", model, "config"]:
            values = _config(fake.send(ModelConfig(model)))
        case ["repository", "index"]:
            values = [_json_of(entry) for entry in fake.send(Index())]
        case ["models", model, "stats"]:
            values = _stats(fake.send(Statistics(model)))
        case _:
            raise AssertionError(path)
    return 200, json.dumps(values).encode(), 0


def _json_of(entry):
    return {
        "name": entry.name,
        "version": entry.version,
        "state": entry.state,
        "reason": entry.reason,
    }


def _stats(counts):
    return {
        "model_stats": [
            {
                "version": c.version,
                "inference_count": c.rows,
                "execution_count": c.batches,
                "inference_stats": {
                    "queue": {"count": c.calls, "ns": round(1e6 * c.queue_ms)},
                    # A batch counts here once for each of its calls.
                    "compute_infer": {"count": c.calls, "ns": round(9e6 * c.compute_ms)},
                },
                "batch_stats": [
                    {"batch_size": 1, "compute_input": {"count": 1, "ns": 1_000_000}},
                    {
                        "batch_size": 6,
                        "compute_infer": {"count": 1, "ns": round(1e6 * c.compute_ms - 3e6)},
                        "compute_output": {"count": 1, "ns": 2_000_000},
                    },
                ],
            }
            for c in counts
        ]
    }


def _config(spec):
    def port(p):
        kind = "STRING" if p.datatype == "BYTES" else p.datatype
        return {"name": p.name, "data_type": f"TYPE_{kind}", "dims": list(p.shape)}

    config = {
        "name": spec.name,
        "max_batch_size": spec.max_batch_size,
        "input": [port(p) for p in spec.inputs],
        "output": [port(p) for p in spec.outputs],
    }
    if spec.steps:
        config["ensemble_scheduling"] = {"step": [{"model_name": s} for s in spec.steps]}
    return config
