"""A ready engine: a file that the target serves as it is, made elsewhere.

    [[expert]]
    name = "large"
    engine = "large.plan"               # or .onnx, .pt2: what the target serves
    sha256 = "..."                      # optional

Nothing says what it was made from, so it cannot be compared with anything: it is checked to answer
(N, C) finite logits where it runs on the machine that builds, and else laid out unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cascade_router.errors import SpecError
from cascade_router.strict import Table

from .source import path_of, sha256_of

__all__ = ["EngineSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSource:
    """A file that a target serves.

    Attributes:
        path: It.
        sha256: Digest that the spec demands of it.
    """

    kind: ClassVar[str] = "engine"
    gives: ClassVar[str] = "engine"

    path: Path
    sha256: str | None = None

    @classmethod
    def read(cls, table: Table, folder: Path) -> EngineSource:
        """Take its keys from an ``[[expert]]`` table."""
        path = path_of(table, "engine", folder)
        if not path.is_file():
            message = f"{table.where}.engine: {str(path)!r} is a folder, expected a file"
            raise SpecError(message, hint="give the engine itself")
        return cls(path=path, sha256=sha256_of(table))

    @property
    def pinned(self) -> Path:
        """The engine."""
        return self.path

    def said(self) -> dict[str, Any]:
        """Say the file's name."""
        return {"engine": self.path.name}

    def code(self) -> dict[str, str]:
        """Say nothing: no code of ours makes it."""
        return {}

    def files(self) -> list[Path]:
        """Name the engine."""
        return [self.path]
