"""``embedded``: ONNX Runtime in Triton's Python backend, on any processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .job import Converted, Job, Runner
from .onnx_files import MAIN_FILE
from .onnx_files import convert as converted
from .onnx_files import toolchain as tools

if TYPE_CHECKING:
    from cascade_builder.spec import Expert, Spec

    from .options import Engine

__all__ = [
    "MAIN_FILE",
    "convert",
    "refuses",
    "refuses_options",
    "runner",
    "toolchain",
    "why_not",
]

_SLOWER = "ONNX Runtime has no {} arithmetic on processors: it would only cast to and fro"


def refuses(precision: str) -> str | None:
    """Say why it does not compute in a precision; None: it does."""
    if precision in ("fp32", "int8"):
        return None
    return _SLOWER.format(precision)


def refuses_options(options: Engine) -> str | None:
    """Say which option of ``[tensorrt]`` it does not know: they are for other targets."""
    del options
    return None


def toolchain(expert: Expert, spec: Spec) -> dict[str, str]:
    """Say what a conversion depends on."""
    del spec
    return tools(expert.precision)


def convert(job: Job) -> Converted:
    """Write ``model.onnx``."""
    return converted(job)


def why_not() -> str | None:
    """Say why it cannot run here: it always can."""
    return None


def runner(files: Mapping[str, Path], expert: Expert) -> Runner:
    """Open the file as it is served."""
    from cascade_builder.runtime import OnnxExpert

    return OnnxExpert(files[MAIN_FILE], expert.threads)
