"""Decodes the pictures of this cascade. Written by cascade-builder."""

from .cascade_router.images_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
