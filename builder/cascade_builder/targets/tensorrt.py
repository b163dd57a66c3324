"""``tensorrt``: engines for the GPU at hand, served by Triton's tensorrt backend.

Never run by the tests of this project, which have no such GPU; the same code builds the engines of
``tensorrt-rtx``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import engine
from .engine import MAIN_FILE
from .hardware import gpus
from .identity import PRECISION, code, module_there, versions
from .job import Converted, Job, Runner

if TYPE_CHECKING:
    from cascade_builder.spec import Expert, Spec

    from .options import Engine

__all__ = [
    "CODE",
    "MAIN_FILE",
    "convert",
    "refuses",
    "refuses_options",
    "runner",
    "toolchain",
    "why_not",
]

_STEPS = ("targets/engine", "targets/network", "targets/graph", "targets/profiles")

CODE = (*PRECISION, "comparison", *_STEPS)
"""Modules of this package that decide what an engine is."""


def refuses(precision: str) -> str | None:
    """Say why it does not compute in a precision: it knows all."""
    del precision
    return None


def refuses_options(options: Engine) -> str | None:
    """Say which option of ``[tensorrt]`` it does not know; None: it knows those given."""
    if options.compute_capabilities:
        return "compute_capabilities: it builds for the GPU at hand, or hardware_compatible ones"
    return None


def toolchain(expert: Expert, spec: Spec) -> dict[str, str]:
    """Say what an engine depends on, the GPU included: it is timed on it and runs on its kind."""
    del expert
    found = versions("tensorrt", "polygraphy", "onnx", "onnxruntime", extra="build") | code(*CODE)
    devices = () if spec.engine.hardware_compatible else gpus()
    return found | ({"compute_capability": devices[0].capability} if devices else {})


def convert(job: Job) -> Converted:
    """Build ``model.plan``."""
    return engine.convert(job, "tensorrt")


def why_not() -> str | None:
    """Say why it cannot run here; None: it can."""
    if not module_there("tensorrt"):
        return "the package tensorrt is not installed"
    return None if gpus() else "there is no GPU here"


def runner(files: Mapping[str, Path], expert: Expert) -> Runner:
    """Open the engine."""
    from cascade_router.tensorrt_expert import runner as opened

    del expert
    return opened(files[MAIN_FILE], "tensorrt")
