"""``tensorrt-rtx``: engines for RTX GPUs, run by TensorRT for RTX in the Python backend.

They are built without a GPU and finished on the one they run on, so one file serves every kind
that the library lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from . import engine
from .engine import MAIN_FILE
from .hardware import gpus
from .identity import code, module_there, one_of, versions
from .job import Converted, Job, Runner
from .tensorrt import CODE

if TYPE_CHECKING:
    from cascade_builder.spec import Expert, Spec

    from .options import Engine

__all__ = [
    "CAPABILITIES",
    "MAIN_FILE",
    "convert",
    "refuses",
    "refuses_options",
    "runner",
    "toolchain",
    "why_not",
]

CAPABILITIES = ["8.0", "8.6", "8.9", "12.0", "12.1"]
"""GPUs that TensorRT for RTX 1.7 builds for unasked; Hopper (9.0) is not among them."""

_TURING = "7.5"
"""It must be named, and takes no float32 products."""

_PACKAGES = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")


def refuses(precision: str) -> str | None:
    """Say why it does not compute in a precision: it knows all, fp8 from 8.9 (Ada) on."""
    del precision
    return None


def refuses_options(options: Engine) -> str | None:
    """Say which option of ``[tensorrt]`` it does not know; None: it knows those given."""
    if options.version_compatible:
        return "version_compatible: its engines run in the version that built them"
    if options.hardware_compatible:
        return "hardware_compatible: its engines already run on all it builds for"
    if options.cuda_graphs:
        return "cuda_graphs: Triton's tensorrt backend captures them, the Python backend does not"
    known = [_TURING, *CAPABILITIES]
    unknown = [one for one in options.compute_capabilities if one not in known]
    if unknown:
        return f"compute_capabilities: got {unknown[0]}, expected of {', '.join(known)}"
    return None


def toolchain(expert: Expert, spec: Spec) -> dict[str, str]:
    """Say what an engine depends on."""
    del expert, spec
    library = one_of(*_PACKAGES, extra="rtx")
    return library | versions("polygraphy", "onnx", "onnxruntime", extra="build") | code(*CODE)


def convert(job: Job) -> Converted:
    """Build ``model.plan``."""
    return engine.convert(job, "tensorrt_rtx")


def why_not() -> str | None:
    """Say why it cannot run here; None: it can."""
    if not module_there("tensorrt_rtx"):
        return "the extra rtx is not installed"
    found = gpus()
    if not found:
        return "there is no GPU here"
    if found[0].capability not in CAPABILITIES:
        return f"it does not build for {found[0]}"
    return None


def runner(files: Mapping[str, Path], expert: Expert) -> Runner:
    """Open the engine."""
    from cascade_router.tensorrt_expert import runner as opened

    del expert
    return opened(files[MAIN_FILE], "tensorrt_rtx")
