"""Peers that bring a process of their own: how it is started, known to be ready, and stopped."""

from __future__ import annotations

import functools
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cascade_client.address import Address
from cascade_client.transport import connect_load
from cascade_router.errors import NotReadyError, ServerError
from cascade_router.serve import Ports, free_ports

from .peer import Loadable, Setup
from .program import READY, SETUP
from .raw_rows import RawRowsTransport

__all__ = ["PyTritonCascade", "RayServeCascade", "running"]

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class PyTritonCascade:
    """A Python function that walks the tiers, bound to a Triton of its own by PyTriton."""

    name: str = "pytriton_cascade"
    alone: bool = True

    def missing(self) -> str | None:
        """It needs PyTriton."""
        return _absent("pytriton", "nvidia-pytriton")

    def lay_out(self, setup: Setup) -> None:
        """Nothing: it opens the ONNX files where they lie."""

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Loadable]:
        """Start it, and load it by gRPC."""
        port = free_ports().grpc
        with running("pytriton_app", setup, port, _pytriton_environment, starts=3):
            yield Loadable(
                candidate=setup.candidate(self.name, setup.cascade),
                connect=lambda: connect_load(f"127.0.0.1:{port}"),
            )


@dataclass(frozen=True)
class RayServeCascade:
    """Ray Serve model composition: a deployment per expert that batches, one that walks them."""

    name: str = "ray_serve_cascade"
    alone: bool = True

    def missing(self) -> str | None:
        """It needs Ray Serve."""
        return _absent("ray", "ray[serve], of the extra `peers`,")

    def lay_out(self, setup: Setup) -> None:
        """Nothing: it opens the ONNX files where they lie."""

    @contextmanager
    def open(self, setup: Setup) -> Iterator[Loadable]:
        """Start it, and load it by HTTP with the rows as they lie in memory."""
        ports = free_ports()
        environment = functools.partial(_ray_environment, ports)
        with running("ray_serve_app", setup, ports.http, environment, timeout_s=120):
            address = Address("http", "127.0.0.1", ports.http)
            yield Loadable(
                candidate=setup.candidate(self.name, setup.cascade),
                connect=lambda: RawRowsTransport(address, setup),
            )


@contextmanager
def running(
    program: str,
    setup: Setup,
    port: int,
    environment: Callable[[Path], Mapping[str, str]],
    *,
    timeout_s: float = 60.0,
    starts: int = 1,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of this package until the block ends.

    It ends when its standard input does, so it ends with us however we end; see `program`.

    Args:
        program: Its module.
        setup: The cascade.
        port: Where it listens, on loopback.
        environment: Added to ours, given the folder that is the program's own.
        timeout_s: Longest wait for it to be ready.
        starts: How often it is started before its end counts. (PyTriton's server now and then asks
            a socket of its own that does not listen yet.)

    Raises:
        ServerError: If it ends before it is ready.
        NotReadyError: If it is not ready in time.
    """
    # What a killed program left there may still be changing.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        (folder / SETUP).write_text(setup.to_json())
        command = [sys.executable, "-m", f"{__package__}.{program}", scratch, str(port)]
        for left in reversed(range(starts)):
            process = _start(command, folder / "log", environment(folder))
            try:
                try:
                    _wait(process, program, folder, timeout_s)
                except ServerError:
                    if left:
                        continue
                    raise
                yield process
                return
            finally:
                _stop(process)


def _start(command: list[str], log: Path, added: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with open(log, "wb") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=_ROOT,
            env={**os.environ, **added},
            start_new_session=True,
        )


def _pytriton_environment(_: Path) -> dict[str, str]:
    """Let Triton's stub load the library of this interpreter, not the system's of that name."""
    folders = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH")]
    return {"LD_LIBRARY_PATH": ":".join(filter(None, folders))}


def _ray_environment(ports: Ports, folder: Path) -> dict[str, str]:
    """Say what Ray and its workers read before any code of ours runs."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        # What its guides to performance and high throughput advise: HAProxy before the ingress, no
        # hops between threads, gRPC between deployments. Together half as many rows again.
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # Its files and ports, else the same for every Ray on the machine.
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.grpc),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "haproxy.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "haproxy-state"),
        # No lower priority than other candidates' processes have.
        "RAY_worker_niceness": "0",
        # "No cluster": what Ray itself opens listens on loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Else it writes a token into the home folder.
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def _wait(process: subprocess.Popen[bytes], name: str, folder: Path, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not (folder / READY).exists():
        if process.poll() is not None:
            message = f"{name}: ended with status {process.returncode}, expected it to serve"
            raise ServerError(message, hint=_tail(folder / "log"))
        if time.monotonic() > end:
            message = f"{name}: was not ready within {timeout_s:.0f} s"
            raise NotReadyError(message, hint=_tail(folder / "log"))
        time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes], timeout_s: float = 30.0) -> None:
    """End the process gently, else with all that it started."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path, n: int = 15) -> str:
    return "its log ends with:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-n:])


def _absent(module: str, package: str) -> str | None:
    return None if importlib.util.find_spec(module) else f"{package} is not installed"
