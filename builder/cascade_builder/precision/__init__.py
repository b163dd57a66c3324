"""ONNX graphs at another precision, which is written into the network: casts, or Q/DQ pairs.

Nothing is left to flags of a builder, so what is verified is what is served, and TensorRT 11 and
TensorRT-RTX, which take no such flags, get the same. In every precision what comes before the first
layer with weights stays float32: a picture's resize and a frame's mean and deviation decide about
everything after them, and cost little.

    trunk <- half, ranges <- here
"""

from __future__ import annotations

from .half import half_from_onnx
from .ranges import Ranges, quantised_from_onnx
from .trunk import trunk

__all__ = ["Ranges", "half_from_onnx", "quantised_from_onnx", "trunk"]
