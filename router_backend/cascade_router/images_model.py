"""The preprocessing model of a picture cascade: IMAGE bytes in, PIXELS out.

Config: ``parameters`` with ``size``, the side of the pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import RequestError
from .images import Allowance, pixels_from_bytes
from .triton_io import Array, answered, config_of, input_of, parameter, response

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Decodes pictures; a broken one fails its own request only."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check that pictures can be decoded here at all."""
        import PIL  # noqa: F401  # absent in a stock container: fail at load, not at each request

        self._size = int(parameter(config_of(args), "size", "320"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return [answered(request, self._answer) for request in requests]

    def _answer(self, request: Any) -> Any:
        return response([("PIXELS", self._pixels(input_of(request, "IMAGE")))])

    def _pixels(self, images: Array) -> Array:
        """(n, 1) pictures as bytes to (n, S, S, 3) uint8."""
        rows = images.reshape(-1)
        pixels = np.empty((len(rows), self._size, self._size, 3), dtype=np.uint8)
        allowance = Allowance()
        for i, data in enumerate(rows):
            try:
                pixels[i] = pixels_from_bytes(data, self._size, allowance)
            except RequestError as error:
                if len(rows) == 1:
                    raise
                message = f"row {i}: {error.message}"
                raise RequestError(message, hint=error.hint) from error
        return pixels
