"""``cascade-serve``, from its options to its exit status."""

from __future__ import annotations

import contextlib
import datetime
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cascade_router.keys import FILE_VARIABLE, GUARDED, HEADER, Keys
from cascade_router.serve import Hosts, Ports, Server

from .guard import check_guard, http_status
from .options import Options, reachable
from .ports import check_listener, check_port
from .readiness import ReadinessPage
from .remains import Claim
from .signals import told_to_stop
from .supervisor import Supervisor
from .triton import GrpcTriton, Triton
from .watcher import Pace, Watcher

__all__ = ["run"]


def run(options: Options) -> int:
    """Do what the options ask for.

    Returns:
        Exit status.

    Raises:
        CascadeError: If it cannot be done.
    """
    if options.new_keys is not None:
        Keys.create(options.new_keys)
        sys.stdout.write(f"{options.new_keys}: two new keys, for you alone to read\n")
        return 0
    keys = None if options.keys is None else Keys.read(options.keys)
    stop, hurry = threading.Event(), threading.Event()
    with told_to_stop(stop, hurry):
        if options.watch is not None:
            return _watch(options, options.watch, keys, stop)
        return _serve(options, keys, stop, hurry)


def _watch(options: Options, address: str, keys: Keys | None, stop: threading.Event) -> int:
    key = keys.control if keys else None
    # A load under way is waited for: given up, the server would go on without that model for good.
    triton = GrpcTriton(address.removeprefix("grpc://"), key)
    watcher = Watcher(triton, _tell, pace=Pace(look_s=options.look_s))
    with _page(options, watcher.report):
        try:
            return watcher.run(stop)
        finally:
            triton.close()


def _serve(
    options: Options, keys: Keys | None, stop: threading.Event, hurry: threading.Event
) -> int:
    hidden = guards(keys)
    claim = Claim(options.repository)
    try:
        pace = Pace(look_s=options.look_s, drain_s=options.drain_s)
        ports = Ports(**{name: options.ports[name] for name in Ports.__slots__})
        hosts = Hosts(**{name: options.hosts[name] for name in Hosts.__slots__})
        environment = key_variable(options.keys)

        def launch(mark: str) -> Server:
            return Server(
                repository=options.repository,
                ports=ports,
                hosts=hosts,
                flags=options.rest,
                hidden=hidden,
                environment=environment,
                mark=mark,
                scratch=claim.scratch,
                stop_s=pace.stop_s,
            )

        address = f"{reachable(hosts.grpc)}:{ports.grpc}"

        def connect() -> Triton:
            key = keys.control if keys else None
            return GrpcTriton(address, key, give_up=stop.is_set, hurry=hurry.is_set)

        def status() -> int:
            return http_status(reachable(hosts.http), ports.http)

        def guard(group: int) -> None:
            check_listener(group, "grpc", ports.grpc)
            if keys is not None:
                plain = functools.partial(GrpcTriton, address)
                check_guard(plain, connect, status if options.serves_http else None)

        supervisor = Supervisor(claim, launch, connect, _tell, guard=guard, pace=pace)
        with _page(options, supervisor.report):
            return supervisor.run(stop, hurry)
    finally:
        claim.release()


def key_variable(path: Path | None) -> dict[str, str]:
    """Name the key file to the control model; a link stays one, for it may be turned elsewhere."""
    return {} if path is None else {FILE_VARIABLE: str(path.absolute())}


def guards(keys: Keys | None) -> list[str]:
    """Write the flags by which tritonserver guards itself; they hold the key.

    Raises:
        ServerError: If there are keys, but not those that a server needs.
    """
    if keys is None:
        return []
    keys.check_for_server()
    what = ",".join(GUARDED)
    names = ("--http-restricted-api", "--grpc-restricted-protocol")
    return [f"{name}={what}:{HEADER}={keys.control}" for name in names]


@contextlib.contextmanager
def _page(options: Options, report: Callable[[], dict[str, Any]]) -> Iterator[None]:
    host, port = options.hosts["health"], options.ports["health"]
    check_port("health", host, port)
    page = ReadinessPage(host, port, report)
    _tell(f"readiness at http://{reachable(host)}:{page.port}/ready")
    try:
        yield
    finally:
        page.close()


def _tell(line: str) -> None:
    now = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S")
    with contextlib.suppress(OSError):  # a full disk under the log stops no service
        sys.stderr.write(f"{now} cascade-serve: {line}\n")
        sys.stderr.flush()
