"""NVIDIA's perf_analyzer, run as it is and read back.

The binary is looked for on PATH, then in ``libexec`` of this environment, where
``make perf-analyzer`` puts the one from the ``tritonclient`` 2.51 wheel (later ones need a newer
glibc than Debian 12 has). Two libraries it wants are lent by the ``nvidia-pytriton`` wheel.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import ServerError

__all__ = ["Figures", "PerfAnalyzer"]

_LENT = {"libcudart.so.12": "libcudart-*.so.12*", "libb64.so.0d": "libb64-*.so.0d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What perf_analyzer measured at one level of load.

    Attributes:
        level: Concurrency, or requests per second where a rate was asked for.
        rows_per_s: Inferences per second.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        columns: The whole line of its CSV.
    """

    level: float
    rows_per_s: float
    p50_ms: float
    p99_ms: float
    columns: Mapping[str, str]

    @classmethod
    def of(cls, row: Mapping[str, str]) -> Figures:
        """Read a line of its CSV (latencies there are microseconds)."""
        level = row.get("Concurrency") or row.get("Request Rate") or "nan"
        return cls(
            level=float(level),
            rows_per_s=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / 1000,
            p99_ms=float(row["p99 latency"]) / 1000,
            columns=dict(row),
        )


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

    def measure(
        self,
        model: str,
        grpc_url: str,
        data: Sequence[Mapping[str, Any]],
        *,
        concurrency: int,
        window_ms: int = 2000,
        flags: Sequence[str] = (),
    ) -> Figures:
        """Load a model with real rows at one concurrency.

        Args:
            model: Name of the model.
            grpc_url: ``host:port``.
            data: Requests as perf_analyzer's ``--input-data`` wants them.
            concurrency: Requests under way at once.
            window_ms: Length of one measurement.
            flags: Further flags.

        Raises:
            ServerError: If it fails; holds the end of what it printed.
        """
        with tempfile.TemporaryDirectory(prefix="perf-") as scratch:
            folder = Path(scratch)
            (folder / "data.json").write_text(json.dumps({"data": list(data)}))
            command = [
                str(self.binary.absolute()),
                *("-m", model, "-u", grpc_url, "-i", "grpc", "--input-data", "data.json"),
                *("--concurrency-range", str(concurrency), "-f", "out.csv"),
                *("--measurement-interval", str(window_ms), "--max-trials", "10"),
                # It calls a result stable when three windows in a row agree this well, in percent.
                *("--stability-percentage", "30", *flags),
            ]
            done = subprocess.run(
                command,
                cwd=folder,
                env=self._environment(),
                capture_output=True,
                text=True,
                timeout=60 + 20 * window_ms / 1000,
                check=False,
            )
            table = folder / "out.csv"
            if not table.exists():
                said = (done.stdout + done.stderr).strip().splitlines()[-5:]
                message = f"perf_analyzer: no result for {model} at concurrency {concurrency}"
                raise ServerError(message, hint="it said: " + " / ".join(said))
            with table.open(newline="") as file:
                return Figures.of(next(csv.DictReader(file)))

    def _environment(self) -> dict[str, str]:
        env = dict(os.environ)
        if self.libraries is not None:
            lent = [str(self.libraries), env.get("LD_LIBRARY_PATH", "")]
            env["LD_LIBRARY_PATH"] = ":".join(filter(None, lent))
        return env
