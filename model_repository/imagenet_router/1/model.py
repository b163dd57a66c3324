"""Routes the rows of this cascade. Written by cascade-builder."""

from .cascade_router.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
