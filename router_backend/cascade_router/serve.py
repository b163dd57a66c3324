"""``cascade-serve``: run the real tritonserver on a model repository.

The ``tritonserver`` on PATH is taken when it has the backends that the repository names, else the
binary inside the ``nvidia-pytriton`` wheel. Servers bind to loopback unless a flag says otherwise.
`Server` is the bare process; what looks after it is in `supervision`.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from .errors import CascadeError, NotReadyError, ServerError
from .installation import Installation
from .supervision.hidden_flags import start_hidden
from .supervision.ports import check_port

__all__ = ["Hosts", "Ports", "Server", "free_ports", "main"]

_HOST = "127.0.0.1"
_BACKEND = re.compile(r'^\s*backend:\s*"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Where a server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """On which addresses."""

    http: str = _HOST
    grpc: str = _HOST
    metrics: str = _HOST


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
        ports: Where it listens.
        hosts: On which addresses; loopback only unless they, or ``flags``, say otherwise.
        flags: Further tritonserver flags; they win over ours.
        hidden: Flags that hold secrets: they do not show in the process list.
        environment: What is added to its environment.
        log: File for its output; None: this process's stderr.
        mark: What names of its shared memory begin with; None: as the Python backend has it.
        scratch: Folder for what it needs while it runs; None: a temporary one.
        stop_s: Seconds it may take to end after its last request.
    """

    repository: Path
    ports: Ports = field(default_factory=Ports)
    hosts: Hosts = field(default_factory=Hosts)
    flags: Sequence[str] = ()
    hidden: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None
    mark: str | None = None
    scratch: Path | None = None
    stop_s: float = 20.0
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
        for name in Ports.__slots__:
            check_port(name, getattr(self.hosts, name), getattr(self.ports, name))
        self._scratch = tempfile.TemporaryDirectory(prefix="cascade-serve-", dir=self.scratch)
        command = self._command(installation, Path(self._scratch.name))
        env = {**installation.environment(), **self.environment}
        with open(self.log, "wb") if self.log else open(os.dup(2), "wb") as out:
            if self.hidden:
                self.process = start_hidden(command, self.hidden, env=env, out=out)
            else:
                # Ctrl-C reaches a whole group: who drains a server is to hear it alone.
                group = None if self.mark is None else 0
                self.process = subprocess.Popen(
                    command, env=env, stdout=out, stderr=out, process_group=group
                )

    @property
    def pid(self) -> int:
        """Its process number; 0 before it was started."""
        return 0 if self.process is None else self.process.pid

    @property
    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        return None if self.process is None else self.process.poll()

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
            "--http-address": self.hosts.http,
            "--grpc-address": f"[{self.hosts.grpc}]" if ":" in self.hosts.grpc else self.hosts.grpc,
            "--metrics-address": self.hosts.metrics,
            "--http-port": str(self.ports.http),
            "--grpc-port": str(self.ports.grpc),
            "--metrics-port": str(self.ports.metrics),
            # Explicit control with everything loaded: experts can be swapped while it serves.
            "--model-control-mode": "explicit",
            "--load-model": "*",
            "--exit-timeout-secs": f"{self.stop_s:.0f}",
        }
        if os.environ.get("AIP_MODE"):
            # There its own door is open by itself, not on loopback, and the usual ones are shut.
            ours |= {"--allow-vertex-ai": "false", "--allow-http": "true", "--allow-grpc": "true"}
        if installation.stub is not None:
            backends = installation.lay_out_backends(scratch)
            ours["--backend-directory"] = str(backends)
        theirs = {flag.partition("=")[0] for flag in self.flags if flag.startswith("--")}
        if "--model-control-mode" in theirs:
            del ours["--load-model"]  # Triton takes it in explicit mode alone
        flags = [f"{key}={value}" for key, value in ours.items() if key not in theirs]
        if self.mark is not None:  # may be given several times: another setting each
            flags.append(f"--backend-config=python,shm-region-prefix-name={self.mark}")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Serve a repository in the foreground, or look after a server, until told to stop."""
    from .supervision.command import run
    from .supervision.options import USAGE, Options

    try:
        options = Options.parse(sys.argv[1:] if argv is None else argv)
        if options.help:
            sys.stdout.write(USAGE)
            return 0
        return run(options)
    except CascadeError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    except OSError as error:  # a full disk, say
        sys.stderr.write(f"Error: cascade-serve: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
