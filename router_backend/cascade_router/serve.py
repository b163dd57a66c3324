"""``cascade-serve``: start the real tritonserver on a model repository.

The ``tritonserver`` on PATH is taken when it has the backends that the repository names, else the
binary inside the ``nvidia-pytriton`` wheel. Servers bind to loopback unless a flag says otherwise.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .errors import CascadeError, NotReadyError, ServerError
from .installation import Installation

__all__ = ["Ports", "Server", "free_ports", "main"]

_HOST = "127.0.0.1"
_BACKEND = re.compile(r'^\s*backend:\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


def free_ports() -> Ports:
    """Find three ports nobody listens on."""
    sockets = [socket.create_server((_HOST, 0)) for _ in range(3)]
    http, grpc, metrics = (s.getsockname()[1] for s in sockets)
    for s in sockets:
        s.close()
    return Ports(http=http, grpc=grpc, metrics=metrics)


@dataclass(kw_only=True)
class Server:
    """One tritonserver process; a context manager that stops it.

    Attributes:
        repository: The model repository.
        ports: Where it listens, loopback only unless ``flags`` say otherwise.
        flags: Further tritonserver flags; they win over ours.
        log: File for its output; None: this process's stderr.
    """

    repository: Path
    ports: Ports = field(default_factory=Ports)
    flags: Sequence[str] = ()
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _scratch: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)

    @property
    def grpc_url(self) -> str:
        """``host:port`` for gRPC clients."""
        return f"{_HOST}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """``host:port`` for HTTP clients."""
        return f"{_HOST}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus page."""
        return f"http://{_HOST}:{self.ports.metrics}/metrics"

    def start(self) -> None:
        """Start the process; it is not ready yet.

        Raises:
            ServerError: If the repository, a port, a backend or a library is not as needed.
        """
        installation = Installation.find(_backends_of(self.repository))
        installation.check_libraries()
        for name in ("http", "grpc", "metrics"):
            _check_port(name, getattr(self.ports, name))
        self._scratch = tempfile.TemporaryDirectory(prefix="cascade-serve-")
        command = self._command(installation, Path(self._scratch.name))
        with open(self.log, "wb") if self.log else open(os.dup(2), "wb") as out:
            self.process = subprocess.Popen(
                command, env=installation.environment(), stdout=out, stderr=out
            )

    def wait_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until every model is loaded.

        Raises:
            NotReadyError: If it is not ready in time.
            ServerError: If it ended; holds the last lines of its log.
        """
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                message = f"tritonserver ended while loading {self.repository.name}/"
                raise ServerError(message, hint=self._last_lines())
            try:
                with urllib.request.urlopen(
                    f"http://{self.http_url}/v2/health/ready", timeout=1
                ) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.1)
        message = f"tritonserver was not ready within {timeout_s:.0f} s"
        raise NotReadyError(message, hint=self._last_lines())

    def stop(self, timeout_s: float = 40.0) -> int:
        """Stop the process gently, then by force; return its exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if self._scratch is not None:
            self._scratch.cleanup()
        return status

    def __enter__(self) -> Server:
        """Start and wait until ready."""
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        self.stop()

    def _command(self, installation: Installation, scratch: Path) -> list[str]:
        ours = {
            "--model-repository": str(self.repository),
            "--http-address": _HOST,
            "--grpc-address": _HOST,
            "--metrics-address": _HOST,
            "--http-port": str(self.ports.http),
            "--grpc-port": str(self.ports.grpc),
            "--metrics-port": str(self.ports.metrics),
            # Explicit control with everything loaded: experts can be swapped while it serves.
            "--model-control-mode": "explicit",
            "--load-model": "*",
            "--exit-timeout-secs": "20",
        }
        if installation.stub is not None:
            backends = installation.lay_out_backends(scratch)
            ours["--backend-directory"] = str(backends)
        theirs = {flag.partition("=")[0] for flag in self.flags if flag.startswith("--")}
        flags = [f"{key}={value}" for key, value in ours.items() if key not in theirs]
        return [str(installation.binary), *flags, *self.flags]

    def _last_lines(self, n: int = 15) -> str | None:
        if self.log is None or not self.log.exists():
            return None
        lines = self.log.read_text(errors="replace").splitlines()[-n:]
        return "its log ends with:\n" + "\n".join(lines)


def _backends_of(repository: Path) -> set[str]:
    """Name the backends that the repository's configs ask for."""
    configs = sorted(repository.glob("*/config.pbtxt"))
    if not configs:
        message = f"{repository}: no model repository (no */config.pbtxt)"
        raise ServerError(message, hint="run `cascade-builder build`, or give --model-repository")
    return {name for config in configs for name in _BACKEND.findall(config.read_text())}


def _check_port(name: str, port: int) -> None:
    try:
        socket.create_server((_HOST, port)).close()
    except OSError as exc:
        message = f"cascade-serve: port {port} ({name}) is in use"
        hint = f"stop the server that listens there, or give --{name}-port=N"
        raise ServerError(message, hint=hint) from exc


def _joined(flags: Sequence[str]) -> list[str]:
    """Write ``--key value`` as ``--key=value``."""
    joined: list[str] = []
    for flag in flags:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and flag[:2] != "--":
            joined[-1] += f"={flag}"
        else:
            joined.append(flag)
    return joined


def _server(flags: Sequence[str]) -> Server:
    """Take from the flags what this program must know; the rest goes on as it is."""
    ours = {f"--{name}-port": name for name in Ports.__slots__}
    ports: dict[str, int] = {}
    repository, rest = "model_repository", []
    for flag in flags:
        key, _, value = flag.partition("=")
        if key in ("--model-repository", "--model-store"):
            repository = value
        elif key in ours and value.isdecimal() and 0 < int(value) < 65536:
            ports[ours[key]] = int(value)
        elif key in ours:
            message = f"cascade-serve: {key}: got {value!r}, expected a port"
            raise ServerError(message, hint=f"{key}=8000, say")
        else:
            rest.append(flag)
    return Server(repository=Path(repository), ports=Ports(**ports), flags=rest)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a server in the foreground until it ends or is told to stop."""
    flags = _joined(sys.argv[1:] if argv is None else argv)
    if "--help" in flags or "-h" in flags:
        sys.stdout.write(
            "Usage: cascade-serve [--model-repository DIR] [tritonserver flags]\n\n"
            "Start the real tritonserver on DIR (default: model_repository) in the foreground,\n"
            "on loopback. All other flags go to tritonserver as they are and win over ours.\n"
        )
        return 0
    try:
        server = _server(flags)
        server.start()
    except CascadeError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    process = server.process
    if process is not None:
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, lambda *_: process.terminate())
        process.wait()
    return server.stop()


if __name__ == "__main__":
    sys.exit(main())
