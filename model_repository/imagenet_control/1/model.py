"""Tells about this cascade. Written by cascade-builder."""

from .cascade_router.control import TritonPythonModel

__all__ = ["TritonPythonModel"]
