"""A cascade of two ONNX files: it builds without torch, in a fraction of a second."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx_files import INPUTS, linear, save, two_layers

__all__ = ["COMMAND", "SPEC", "command", "tree", "write"]

SPEC = """
[cascade]
name = "toy"
classes = 3
max_batch = 8

[input]
kind = "tensor"
name = "FRAME"
dtype = "FP32"
shape = [8]

[rows]
folder = "rows"

[[expert]]
name = "small"
onnx = "small.onnx"

[[expert]]
name = "large"
onnx = "large.onnx"

[[point]]
name = "half"
threshold = 0.5
"""

_MAIN = """
import signal
from cascade_builder.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests started by `&` inherit it ignored
main()
"""
COMMAND = [sys.executable, "-c", _MAIN]


def write(folder: Path) -> Path:
    """Write spec, files and rows into a folder; gives the spec's path."""
    save(linear(), folder / "small.onnx")
    save(two_layers(), folder / "large.onnx")
    (folder / "rows").mkdir()
    rows = np.random.default_rng(0).standard_normal((5, INPUTS)).astype(np.float32)
    for i, row in enumerate(rows):
        np.save(folder / "rows" / f"{i}.npy", row)
    path = folder / "cascade.toml"
    path.write_text(SPEC)
    return path


def command(
    folder: Path, *arguments: str, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run ``cascade-builder build`` on it in a process of its own."""
    options = ["build", "cascade.toml", "--repository", "repository", *arguments]
    return subprocess.run(
        [*prefix, *COMMAND, *options], cwd=folder, capture_output=True, text=True, check=False
    )


def tree(root: Path) -> dict[str, bytes]:
    """Read all files below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
