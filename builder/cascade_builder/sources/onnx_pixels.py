"""Cropping, resizing and normalising as ONNX nodes, put in front of a graph.

Shapes: N rows, S canonical side, H = W what the net sees.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cascade_router.errors import SpecError
from cascade_router.strict import Table

__all__ = ["OPSET", "PixelsFirst", "put_first"]

OPSET = 18
"""The first in which Resize knows ``antialias``."""

_MODES = {"bicubic": "cubic", "bilinear": "linear", "nearest": "nearest"}
_PREFIX = "cascade_pixels_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelsFirst:
    """What a net expects of a picture.

    Attributes:
        size: H, side in pixels that the net sees.
        mean: Taken off each channel of pixels in [0, 1].
        deviation: Divides each channel then.
        mode: ``bicubic``, ``bilinear`` or ``nearest``.
        crop: Share of the canonical square, about its centre, that the net sees.
    """

    size: int
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    mode: str = "bicubic"
    crop: float = 1.0

    @classmethod
    def read(cls, table: Table) -> PixelsFirst:
        """Take it from a spec.

        Raises:
            SpecError: If it asks for something that cannot be.
        """
        size = table.whole("size", low=8, high=4096)
        usual = cls(size=size)
        out = cls(
            size=size,
            mean=tuple(table.numbers("mean", list(usual.mean))),
            deviation=tuple(table.numbers("deviation", list(usual.deviation))),
            mode=table.choice("mode", list(_MODES), usual.mode),
            crop=table.number("crop", usual.crop, low=0.05, high=1.0),
        )
        table.done()
        if len(out.mean) != 3 or len(out.deviation) != 3 or min(out.deviation) <= 0:
            message = f"{table.where}: expected three means and three deviations above 0"
            raise SpecError(message, hint="one for red, green and blue, of pixels in [0, 1]")
        return out

    def said(self) -> dict[str, Any]:
        """Write it for a manifest."""
        return {**asdict(self), "mean": list(self.mean), "deviation": list(self.deviation)}


def put_first(graph: Any, pixels: PixelsFirst, name: str, side: int) -> None:
    """Put it in front of a graph of opset ``OPSET`` or later.

    Args:
        graph: An ``onnx.GraphProto`` whose one input takes (N, 3, H, W) float32.
        pixels: What the net expects.
        name: Of the new input: (N, S, S, 3) uint8.
        side: S.
    """
    import onnx
    from onnx import TensorProto, helper

    old = graph.input[0].name
    crop = round(side * pixels.crop)
    start = (side - crop) // 2
    constants = {
        "starts": np.array([start, start], dtype=np.int64),
        "ends": np.array([start + crop, start + crop], dtype=np.int64),
        "axes": np.array([1, 2], dtype=np.int64),
        "sides": np.array([pixels.size, pixels.size], dtype=np.int64),
        "low": np.float32(0.0),
        "high": np.float32(255.0),
        # (x / 255 - mean) / deviation in two steps
        "mean": 255.0 * np.array(pixels.mean, dtype=np.float32).reshape(1, 3, 1, 1),
        "deviation": 255.0 * np.array(pixels.deviation, dtype=np.float32).reshape(1, 3, 1, 1),
    }
    smooth = pixels.mode != "nearest"
    resize: dict[str, Any] = {
        "mode": _MODES[pixels.mode],
        "axes": [2, 3],
        "antialias": int(smooth),
        "coordinate_transformation_mode": "half_pixel" if smooth else "asymmetric",
        # As Pillow and torch do with antialiasing.
        "cubic_coeff_a": -0.5,
        "exclude_outside": int(smooth),
    }
    if not smooth:
        resize["nearest_mode"] = "floor"
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Slice", [name, "starts", "ends", "axes"], "cropped", {}),
        ("Cast", ["cropped"], "float", {"to": TensorProto.FLOAT}),
        ("Transpose", ["float"], "planes", {"perm": [0, 3, 1, 2]}),
        ("Resize", ["planes", "", "", "sides"], "resized", resize),
        ("Clip", ["resized", "low", "high"], "clipped", {}),
        ("Sub", ["clipped", "mean"], "centred", {}),
        ("Div", ["centred", "deviation"], old, {}),
    ]

    def inner(value: str) -> str:
        return value if value in ("", name, old) else _PREFIX + value

    nodes = [
        helper.make_node(
            operator, [inner(one) for one in inputs], [inner(output)], _PREFIX + operator, **given
        )
        for operator, inputs, output, given in steps
    ]
    later = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *later])
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), _PREFIX + key)
        for key, value in constants.items()
    )
    shape: list[str | int | None] = ["batch", side, side, 3]
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, shape))
