"""An expert given as an ONNX file.

    [[expert]]
    name = "small"
    onnx = "small.onnx"                 # one input, any name; weights inside or beside it
    output = "scores"                   # which output holds the logits; or none: there is one
    sha256 = "..."                      # optional
    pixels = { size = 224, mean = [0.485, 0.456, 0.406], deviation = [0.229, 0.224, 0.225] }

``pixels`` is for picture cascades and files that take normalised (N, 3, H, W) float32: cropping,
resizing and normalising are put in front. Without it the file takes the canonical rows themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cascade_router.errors import SpecError
from cascade_router.strict import Table

from .onnx_pixels import PixelsFirst
from .source import path_of, sha256_of, versions

__all__ = ["OnnxSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxSource:
    """An ONNX file.

    Attributes:
        path: It.
        output: Name of the output that holds the logits; None: there is only one.
        pixels: What is put in front; None: nothing.
        sha256: Digest that the spec demands of the file.
    """

    kind: ClassVar[str] = "onnx"
    gives: ClassVar[str] = "onnx"

    path: Path
    output: str | None = None
    pixels: PixelsFirst | None = None
    sha256: str | None = None

    @classmethod
    def read(cls, table: Table, folder: Path) -> OnnxSource:
        """Take its keys from an ``[[expert]]`` table."""
        path = path_of(table, "onnx", folder)
        if not path.is_file():
            message = f"{table.where}.onnx: {str(path)!r} is a folder, expected a file"
            raise SpecError(message, hint="give the .onnx file; weights beside it are found")
        return cls(
            path=path,
            output=table.text("output") if table.has("output") else None,
            pixels=PixelsFirst.read(table.table("pixels")) if table.has("pixels") else None,
            sha256=sha256_of(table),
        )

    @property
    def pinned(self) -> Path:
        """The file."""
        return self.path

    def said(self) -> dict[str, Any]:
        """Say the file's name, its output and what is put in front."""
        out: dict[str, Any] = {"onnx": self.path.name}
        if self.output is not None:
            out["output"] = self.output
        return out if self.pixels is None else {**out, "pixels": self.pixels.said()}

    def code(self) -> dict[str, str]:
        """Say the packages."""
        return versions(["onnx", "onnxruntime", "numpy"], "build")

    def files(self) -> list[Path]:
        """Name the file, and those its weights lie in."""
        return [self.path, *_beside(self.path)]


def _beside(path: Path) -> list[Path]:
    """Name the files that hold a graph's weights; none where it cannot be read."""
    import onnx
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception:  # noqa: BLE001  # making the expert reads it again and says what is wrong
        return []
    names = {ExternalDataInfo(one).location for one in graph.initializer if uses_external_data(one)}
    return [file for name in sorted(names) if (file := path.parent / name).is_file()]
