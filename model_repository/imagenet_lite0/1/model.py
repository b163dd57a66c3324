"""Runs the ONNX file beside it. Written by cascade-builder."""

from .cascade_router.onnx_expert import TritonPythonModel

__all__ = ["TritonPythonModel"]
