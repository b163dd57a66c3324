"""``GET /ready`` and ``GET /live``: the truth for load balancers and probes, as status and JSON."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["ReadinessPage"]

_MOST_AT_ONCE = 16
_LONGEST_S = 5.0


class ReadinessPage:
    """A small HTTP server of its own, so that it answers whatever the other one does.

    ``/ready`` is 200 if ``ready`` is true in the report, else 503; ``/live`` is 200 as long as this
    program runs: it starts a dead server anew itself.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0: any that is free.
        report: Makes the report; called in several threads.

    Attributes:
        port: The port in use.
    """

    def __init__(self, host: str, port: int, report: Callable[[], dict[str, Any]]) -> None:
        self._server = _Server((host, port), _handler(report), ":" in host)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="readiness", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _MOST_AT_ONCE

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], v6: bool
    ) -> None:
        self.address_family = socket.AF_INET6 if v6 else socket.AF_INET
        self._places = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Take a connection if there is room; else close it, which every prober understands."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer it and give the place back."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a prober that hangs up."""


def _handler(report: Callable[[], dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = _LONGEST_S
        server_version, sys_version = "cascade-serve", ""

        def do_GET(self) -> None:  # the library's name
            found = report()
            match self.path.partition("?")[0]:
                case "/live":
                    self._answer(200, {"live": True, "state": found.get("state")})
                case "/ready":
                    self._answer(200 if found.get("ready") else 503, found)
                case _:
                    self._answer(404, {"error": "ask for /ready or /live"})

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, code: int, values: dict[str, Any]) -> None:
            body = json.dumps(values, indent=1).encode() + b"\n"
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: probes come every second."""

    return Handler
