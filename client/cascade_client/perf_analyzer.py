"""NVIDIA's perf_analyzer, run as it is and read back.

The binary is looked for on PATH, then in ``libexec`` of this environment, where
``make perf-analyzer`` puts the one from the ``tritonclient`` 2.51 wheel (later ones need a newer
glibc than Debian 12 has). Two libraries it wants are lent by the ``nvidia-pytriton`` wheel.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import ServerError

from .calls import Parameters
from .perf_data import write_gaps

__all__ = ["Figures", "PerfAnalyzer"]

_KINDS = {str: "string", bool: "bool", int: "int"}
_PASS = re.compile(r"Pass \[\d+\] throughput: (\S+) infer/sec\. \S+ latency: (\d+) usec")
_REQUESTS = re.compile(r"^\s*Request count: (\d+)", re.MULTILINE)
_VERSION = re.compile(r"Perf Analyzer Version (\S+)")
_CHATTER = re.compile(r"WARNING|\s*Pass \[|\s*$")
_FAULT = re.compile(r"had error: (.+)")
_WINDOWS = 3
_STRETCH = 1.2
_GAPS = "gaps.txt"
_MOST_WINDOWS = 10
_LENT = {"libcudart.so.12": "libcudart-*.so.12*", "libb64.so.0d": "libb64-*.so.0d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What perf_analyzer measured at one level of load. A figure that it did not give is NaN.

    Attributes:
        rows_per_s: Inferences per second.
        p50_ms: Median latency, from when a request was sent; p90_ms, p95_ms, p99_ms likewise.
        requests: Requests that ended in the measurement.
        rows_spread: (most - least) / most rows per second of its three windows: 0 = steady.
        latency_spread: The same for their mean latency; a queue that only grows shows here.
        columns: The whole line of its CSV.
    """

    rows_per_s: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    requests: float
    rows_spread: float
    latency_spread: float
    columns: Mapping[str, str]

    @classmethod
    def of(cls, row: Mapping[str, str], printed: str = "") -> Figures:
        """Read a line of its CSV (latencies there are microseconds) and what it printed."""
        windows = [tuple(map(float, found)) for found in _PASS.findall(printed)][-_WINDOWS:]
        rows, latencies = zip(*windows, strict=True) if windows else ((), ())
        requests = _REQUESTS.search(printed)
        ms = {q: float(row[f"p{q} latency"]) / 1000 for q in (50, 90, 95, 99)}
        return cls(
            rows_per_s=float(row["Inferences/Second"]),
            p50_ms=ms[50],
            p90_ms=ms[90],
            p95_ms=ms[95],
            p99_ms=ms[99],
            requests=float(requests[1]) if requests else math.nan,
            rows_spread=_spread(rows),
            latency_spread=_spread(latencies),
            columns=dict(row),
        )


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / max(values) if values and max(values) > 0 else math.nan


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """An executable perf_analyzer.

    Attributes:
        binary: Where it lies.
        libraries: Folder with the libraries it lacks; None: it lacks none.
    """

    binary: Path
    libraries: Path | None = None

    @classmethod
    def find(cls) -> PerfAnalyzer:
        """Find one that starts.

        Raises:
            ServerError: If there is none; says how to get it.
        """
        own = Path(sys.prefix) / "libexec" / "perf_analyzer" / "perf_analyzer"
        found = shutil.which("perf_analyzer")
        if found is None and not own.exists():
            message = "perf_analyzer: not on PATH and not in this environment"
            raise ServerError(message, hint="make perf-analyzer, or run in NVIDIA's SDK container")
        if found is not None:
            return cls(Path(found))
        cls._lend(own.parent)
        return cls(own, own.parent)

    @staticmethod
    def _lend(folder: Path) -> None:
        """Link the libraries that the binary lacks beside it, where the wheel has them."""
        spec = importlib.util.find_spec("pytriton")
        if spec is None or spec.origin is None:
            return
        wheel = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
        for name, pattern in _LENT.items():
            for library in sorted(wheel.glob(pattern))[:1]:
                link = folder / name
                link.unlink(missing_ok=True)
                link.symlink_to(library)

    def version(self) -> str:
        """Say which release it is.

        Raises:
            ServerError: If it does not run.
        """
        printed = self._run(["--version"], Path.cwd(), timeout_s=30).strip()
        said = _VERSION.match(printed)
        if said is None:
            message = f"perf_analyzer: {self.binary.name} does not run here"
            raise ServerError(message, hint=f"it said: {printed}")
        return said[1]

    @staticmethod
    def window_ms(seconds: float) -> int:
        """Give the window with which a measurement of three of them takes so long."""
        return max(round(1000 * seconds / (_WINDOWS * _STRETCH)), 50)

    def measure(
        self,
        model: str,
        grpc_url: str,
        data: Path | Sequence[Mapping[str, Any]],
        *,
        concurrency: int | None = None,
        rate: float | None = None,
        seed: int = 0,
        batch: int = 1,
        parameters: Parameters | None = None,
        window_ms: int = 2000,
        steady_percent: int | None = 30,
        flags: Sequence[str] = (),
    ) -> Figures:
        """Load a model with real rows, at one concurrency or at one rate.

        Args:
            model: Name of the model.
            grpc_url: ``host:port``.
            data: Requests as its ``--input-data`` wants them (see `perf_data`), or a file of them.
            concurrency: Requests under way at once.
            rate: Instead: requests per second, at random moments whatever the server does.
            seed: Of the moments.
            batch: Rows per request.
            parameters: Sent with every request.
            window_ms: Length of one of its windows, which really last a fifth longer.
            steady_percent: It measures until three windows in a row agree this well, or fails after
                ten; None: the first three windows count as they are.
            flags: Further flags.

        Raises:
            ServerError: If it fails, or a request does; holds what it said.
            ValueError: If not exactly one of ``concurrency`` and ``rate`` is given.
        """
        if (concurrency is None) == (rate is None):
            message = "measure: give either concurrency or rate"
            raise ValueError(message)
        with tempfile.TemporaryDirectory(prefix="perf-") as scratch:
            folder = Path(scratch)
            if not isinstance(data, Path):
                (folder / "data.json").write_text(json.dumps({"data": list(data)}))
                data = folder / "data.json"
            if rate is not None:
                write_gaps(folder / _GAPS, rate, _WINDOWS * _STRETCH * window_ms / 1000, seed)
            command = [
                *("-m", model, "-u", grpc_url, "-i", "grpc", "--input-data", str(data.absolute())),
                *("-b", str(batch), "-f", "out.csv", "-v", *_load_flags(concurrency)),
                *("--measurement-interval", str(window_ms), "--max-trials", str(_MOST_WINDOWS)),
                *("--stability-percentage", str(steady_percent or 10**6)),
                # No --warmup-request-count: open loops never end with fewer than four (2.51).
                *_parameter_flags(parameters or {}),
                *flags,
            ]
            printed = self._run(command, folder, timeout_s=60 + 20 * window_ms / 1000)
            table = folder / "out.csv"
            if not table.exists():
                load = f"{rate:g} requests/s" if rate is not None else f"concurrency {concurrency}"
                message = f"perf_analyzer: {model} at {load}: {_complaint(printed)}"
                raise ServerError(message, hint="see the server's log")
            with table.open(newline="") as file:
                return Figures.of(next(csv.DictReader(file)), printed)

    def _run(self, arguments: Sequence[str], folder: Path, timeout_s: float) -> str:
        """Run it in a folder; give what it printed.

        Raises:
            ServerError: If it does not end in time or cannot be started.
        """
        try:
            done = subprocess.run(
                [str(self.binary.absolute()), *arguments],
                cwd=folder,
                env=self._environment(),
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            message = f"perf_analyzer: did not end within {timeout_s:.0f} s"
            raise ServerError(message, hint="the server answers too slowly for this load") from exc
        except OSError as exc:
            message = f"perf_analyzer: {self.binary.name} cannot be started: {exc.strerror}"
            raise ServerError(message, hint="make perf-analyzer") from exc
        return done.stdout + done.stderr

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        if self.libraries is not None:
            lent = [str(self.libraries), env.get("LD_LIBRARY_PATH", "")]
            env["LD_LIBRARY_PATH"] = ":".join(filter(None, lent))
        return env


def _load_flags(concurrency: int | None) -> list[str]:
    if concurrency is not None:
        return ["--concurrency-range", str(concurrency)]
    # Without --async its four threads would each wait for an answer: a closed loop of four.
    return ["--request-intervals", _GAPS, "--async"]


def _parameter_flags(parameters: Parameters) -> list[str]:
    flags: list[str] = []
    for name, value in parameters.items():
        if type(value) not in _KINDS:
            message = f"perf_analyzer sends text, whole numbers and truths, got {name}={value!r}"
            raise ValueError(message)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        flags += ["--request-parameter", f"{name}:{text}:{_KINDS[type(value)]}"]
    return flags


def _complaint(printed: str) -> str:
    """Take the reason from what it printed: what the server refused, else its last lines."""
    faults = list(dict.fromkeys(_FAULT.findall(printed)))
    lines = [line for line in printed.strip().splitlines() if not _CHATTER.match(line)]
    return " / ".join(faults[:2] or lines[-3:])
