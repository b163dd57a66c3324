"""Where and with what a measurement was taken."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "provenance", "save"]

RESULTS = Path(__file__).parent / "results"

_PACKAGES = ["triton-cascade", "nvidia-pytriton", "tritonclient", "onnxruntime", "torch", "numpy"]


def provenance() -> dict[str, Any]:
    """Describe this machine, these versions and this commit; no name or path of the machine."""
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": model.group(1) if model else platform.processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "triton": "2.51.0",
    }


def save(name: str, values: dict[str, Any]) -> Path:
    """Write a result file, never over an older one.

    Args:
        name: What was measured.
        values: JSON-able figures; provenance is added.
    """
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    RESULTS.mkdir(exist_ok=True)
    path, n = RESULTS / f"{day}-{name}.json", 1
    while path.exists():
        n += 1
        path = RESULTS / f"{day}-{name}-{n}.json"
    path.write_text(json.dumps({"provenance": provenance(), **values}, indent=1) + "\n")
    return path
