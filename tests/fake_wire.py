"""A fake cascade on loopback: what Triton says by gRPC and by HTTP, the bytes included."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fake_cascade import FakeCascade

from cascade_client.calls import (
    Index,
    Infer,
    ModelConfig,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
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
