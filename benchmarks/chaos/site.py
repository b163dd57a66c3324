"""A cascade served for real: repository, server, oracle, and the processes behind each model."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from cascade_client import CascadeClient
from cascade_client.calls import Array
from cascade_router.serve import Ports, free_ports
from cascade_router.versions import folder_in_force

from .expected import Question, asked, clear_of_edges, logits_of, questions, read
from .judge import TRACE
from .traffic import Pace, Traffic

__all__ = ["Site", "alive"]

_READY_S = 90.0
_STOP_S = 45.0
_STUB = "triton_python_backend_stub"
_ALARMING = re.compile(rf"{TRACE.pattern}|[Ss]egmentation fault|double free|Aborted")


@dataclass(kw_only=True)
class Site:
    """One ``cascade-serve`` on one repository; a context manager that stops it.

    Attributes:
        repository: The model repository.
        cascade: The cascade that is asked.
        rows: Rows that are sent.
        canonical: The same as experts take them; None: as they are sent.
        log: Gets what the server says.
        flags: Further flags of ``cascade-serve``.
        on_failure: The spec's ``on_tier_failure``.
        ports: Where it listens.
    """

    repository: Path
    cascade: str
    rows: Sequence[Any]
    log: Path
    canonical: Sequence[Array] | None = None
    flags: Sequence[str] = ()
    on_failure: str = "escalate"
    ports: Ports = field(default_factory=free_ports)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _instances: set[str] = field(default_factory=set, init=False)
    _read_to: int = field(default=0, init=False)
    _seen_to: int = field(default=0, init=False)

    @property
    def grpc_url(self) -> str:
        """Where gRPC clients connect."""
        return f"127.0.0.1:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """Where HTTP clients connect."""
        return f"http://127.0.0.1:{self.ports.http}"

    @property
    def router_folder(self) -> Path:
        """Where the policy lies."""
        return folder_in_force(self.repository, self.cascade)

    @cached_property
    def policy(self) -> dict[str, Any]:
        """The policy it started with, as plain JSON."""
        return read(self.router_folder / "policy.json")

    @property
    def tier_models(self) -> list[str]:
        """Models of the experts, cheapest first."""
        return [tier["model"] for tier in self.policy["tiers"]]

    @cached_property
    def logits(self) -> Array:
        """(K, N, C) float32, of every expert alone, one row at a time."""
        paths = [self.repository / model / "1" / "model.onnx" for model in self.tier_models]
        return logits_of(paths, self.rows if self.canonical is None else self.canonical)

    def questions(self, seed: int = 0) -> list[Question]:
        """Ask for each row in some way."""
        return self.questions_under([self.policy], seed)[0]

    def questions_under(
        self, policies: Sequence[dict[str, Any]], seed: int = 0
    ) -> list[list[Question]]:
        """Ask for each row in some way, the same under each of several policies."""
        points = [point["name"] for point in self.policy["points"]]
        asks = asked(len(self.tier_models), points)
        made = questions(
            policies, self.rows, self.logits, asks, on_failure=self.on_failure, seed=seed
        )
        return clear_of_edges(made)

    def traffic(self, pace: Pace, questions: Sequence[Question] | None = None) -> Traffic:
        """Load this server, a quarter by HTTP."""
        with self.client() as client:
            spec = client.spec()
        return Traffic(
            [self.grpc_url, self.grpc_url, self.grpc_url, self.http_url],
            self.cascade,
            spec.inputs[0].name,
            self.questions() if questions is None else questions,
            pace,
            degrades=any(port.name == "DEGRADED" for port in spec.outputs),
        )

    def client(self) -> CascadeClient:
        """Open a client."""
        return CascadeClient(self.grpc_url, self.cascade, timeout_s=20.0)

    def server(self) -> psutil.Process | None:
        """Find the tritonserver of this site; None while there is none."""
        return next((p for p in self._family() if "tritonserver" in _command(p)[:1][0]), None)

    def stubs(self, model: str) -> list[psutil.Process]:
        """Find the processes of a Python model's instances, sorted by their names."""
        mine = {n: p for n, p in self.family().items() if _model(p) == model}
        return [process for _, process in sorted(mine.items())]

    def family(self) -> dict[str, psutil.Process]:
        """Name the server's processes: ``tritonserver``, and each stub by its instance.

        Of two of one name, the former one lingers after its model was loaded anew.
        """
        return dict(self._named())

    def lingering(self) -> list[psutil.Process]:
        """Find processes of models that were loaded anew since."""
        newest = set(self.family().values())
        return [process for _, process in self._named() if process not in newest]

    def alike(self, victim: psutil.Process) -> set[psutil.Process]:
        """Find the processes of a victim's model, former ones included; all of them of a server."""
        every = [process for _, process in self._named()]
        return {p for p in every if victim == self.server() or _model(p) == _model(victim)}

    def whole(self, without: Collection[psutil.Process] = ()) -> bool:
        """Say whether there are as many processes of every model as when it started.

        Args:
            without: Processes that do not count.
        """
        return not (self._instances - {name for name, p in self._named() if p not in without})

    def regions(self) -> list[Path]:
        """Name the shared memory of the stubs that run."""
        return [region for process in self._family() for region in _regions_of(process)]

    def regions_of(self, victim: psutil.Process) -> list[Path]:
        """Name the shared memory that a stub, or the server with all its stubs, may leave."""
        return self.regions() if victim == self.server() else _regions_of(victim)

    def alarms(self) -> list[str]:
        """Take what no fault may cause: an end of ``cascade-serve``, tracebacks and crashes."""
        with self.log.open(errors="replace") as file:
            file.seek(self._read_to)
            lines = file.readlines()
            self._read_to = file.tell()
        return [*self._ended(), *(line.strip() for line in lines if _ALARMING.search(line))][:5]

    def seen(self, words: str) -> int:
        """Count lines with some words that have come into the log since this was asked last."""
        with self.log.open(errors="replace") as file:
            file.seek(self._seen_to)
            lines = file.readlines()
            self._seen_to = file.tell()
        return sum(words in line for line in lines)

    def __enter__(self) -> Site:
        """Start it and wait until every tier answers."""
        flags = {f"--{name}-port": getattr(self.ports, name) for name in Ports.__slots__}
        command = [sys.executable, "-m", "cascade_router.serve"]
        command += ["--model-repository", str(self.repository)]
        flags["--health-port"] = 0
        command += [*(f"{key}={port}" for key, port in flags.items()), *self.flags]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            self.wait_ready()
            self._instances = set(self.family())
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Wait until every tier answers."""
        with self.client() as client:
            client.wait_ready(timeout_s)

    def stop(self) -> list[str]:
        """Stop it, gently at first; nothing of it stays.

        Returns:
            What it should have done by itself, and had to be done for it.
        """
        if self.process is None:
            return []
        troubles = self._ended()
        family = self._orphans() if troubles else self._family()
        regions = [region for process in family for region in _regions_of(process)]
        for process in family:
            _quietly(process.resume)  # a stopped process would hear of nothing
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            troubles.append(f"cascade-serve did not end within {_STOP_S:g} s")
            self.process.kill()
            self.process.wait()
        living = [process for process in family if alive(process)]
        left = [region for region in regions if region.exists()]
        if living or left:
            troubles.append(f"it left {len(living)} processes, {len(left)} regions")
        for process in living:
            _quietly(process.kill)
        for region in left:
            region.unlink(missing_ok=True)
        return troubles

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it.

        Raises:
            RuntimeError: If it did not end well, and nothing else has gone wrong.
        """
        troubles = self.stop()
        if troubles and error is None:
            raise RuntimeError("; ".join(troubles))

    def _ended(self) -> list[str]:
        """Say whether ``cascade-serve`` has ended though nobody told it to."""
        status = None if self.process is None else self.process.poll()
        return [] if status is None else [f"cascade-serve ended by itself, status {status}"]

    def _named(self) -> list[tuple[str, psutil.Process]]:
        """Name what runs, the oldest first."""
        named = []
        for process in sorted(self._family(), key=psutil.Process.create_time):
            words = _command(process)
            if _is_stub(words):
                named.append((words[8], process))
            elif "tritonserver" in words[0]:
                named.append(("tritonserver", process))
        return named

    def _family(self) -> list[psutil.Process]:
        if self.process is None or self.process.poll() is not None:
            return []
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _orphans(self) -> list[psutil.Process]:
        """Find what still runs where ``cascade-serve`` has ended by itself."""
        programs = ("tritonserver", _STUB)
        found = [(_command(p), p) for p in psutil.process_iter()]
        return [
            process
            for words, process in found
            if words[0].endswith(programs) and any(str(self.repository) in w for w in words)
        ]


def alive(process: psutil.Process) -> bool:
    """Say whether a process runs, or is stopped; one that nobody has buried yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _regions_of(process: psutil.Process) -> list[Path]:
    words = _command(process)
    return [Path("/dev/shm") / words[2].lstrip("/")] if _is_stub(words) else []


def _model(process: psutil.Process) -> str:
    """Say whose process a stub is; empty for others."""
    words = _command(process)
    return Path(words[1]).parts[-3] if _is_stub(words) else ""


def _is_stub(words: Sequence[str]) -> bool:
    return _STUB in words[0] and len(words) > 8


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() or [""]
    except psutil.Error:
        return [""]


def _quietly(act: Any) -> None:
    with contextlib.suppress(psutil.Error):
        act()
