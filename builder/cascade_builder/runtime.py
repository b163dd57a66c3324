"""An ONNX file run exactly as it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError
from cascade_router.onnx_expert import session

__all__ = ["OUTPUT", "OnnxExpert"]

OUTPUT = "LOGITS"
"""Name of the output of every expert."""


class OnnxExpert:
    """An ONNX file that can be called.

    Args:
        path: The file.
        threads: Threads within one call.

    Raises:
        BuildError: If ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            self._session = session(str(path), threads)
        except Exception as exc:  # its error classes share no base but Exception
            message = f"{path.name}: ONNX Runtime cannot load it: {exc}"
            raise BuildError(message, hint="remove the folder `build` and build again") from exc
        self._input: str = self._session.get_inputs()[0].name

    def __call__(self, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Run.

        Args:
            rows: (N, ...) canonical rows.

        Returns:
            (N, C) float32 logits.
        """
        return np.asarray(self._session.run([OUTPUT], {self._input: rows})[0])
