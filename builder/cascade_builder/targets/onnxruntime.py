"""``onnxruntime``: Triton's onnxruntime backend, on a GPU where the server has one.

Costs are measured with the same ONNX Runtime in this process, on the processor.
"""

from __future__ import annotations

from .embedded import MAIN_FILE, convert, refuses_options, runner, toolchain, why_not

__all__ = [
    "MAIN_FILE",
    "convert",
    "refuses",
    "refuses_options",
    "runner",
    "toolchain",
    "why_not",
]


def refuses(precision: str) -> str | None:
    """Say why it does not compute in a precision; None: it does."""
    match precision:
        case "fp32" | "fp16" | "int8":
            return None
        case "tf32":
            return "its CUDA provider multiplies fp32 so by itself; no file says so"
        case _:
            return f"most of its CUDA operators know no {precision}"
