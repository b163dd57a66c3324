"""What a target is given and gives back, and which functions its module has.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.comparison import Comparison
    from cascade_builder.spec import Expert, Spec

    from .options import Engine

__all__ = ["Array", "Converted", "Job", "Runner", "Target"]

Array = npt.NDArray[Any]

Runner = Callable[[Array], npt.NDArray[np.float32]]
"""(n, ...) canonical rows -> (n, C) float32 logits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One expert to be converted; see ``targets.convert``."""

    onnx: Path
    expert: Expert
    spec: Spec
    target: str
    sample: Array
    folder: Path
    tell: Callable[[str], None]
    module: nn.Module | None = None

    @property
    def where(self) -> str:
        """What to call the expert in a message."""
        return f"expert {self.expert.name!r}"

    def compared(self, expected: Array, found: Array) -> Comparison:
        """Compare (N, C) logits at the expert's precision."""
        from cascade_builder.comparison import compare

        return compare(
            expected,
            found,
            self.expert.precision,
            activation=self.spec.activation,
            label_tolerance=self.spec.label_tolerance,
        )

    def require(self, comparison: Comparison, before: Any, after: Any, hint: str) -> None:
        """Refuse a graph that does not answer as the one before it.

        Args:
            comparison: What was found.
            before: ``onnx.ModelProto`` it was made of.
            after: ``onnx.ModelProto``.
            hint: What to try.

        Raises:
            BuildError: Names the first layer that diverged.
        """
        from cascade_builder.comparison import first_divergence, require

        precision = self.expert.precision
        require(
            comparison,
            where=self.where,
            step=f"ONNX to {precision}",
            hint=hint,
            culprit=lambda: first_divergence(before, after, self.sample, precision),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What a target serves of one expert.

    Attributes:
        files: Names of files in ``Job.folder``, which are also their names in the version folder.
            The first is the target's ``MAIN_FILE``.
        figures: What was verified, JSON-able, with few digits; equal inputs give equal figures.
    """

    files: tuple[str, ...]
    figures: Mapping[str, Any]


class Target(Protocol):
    """The functions of a target's module."""

    MAIN_FILE: str
    """Name of the file whose digest is the expert's."""

    def refuses(self, precision: str) -> str | None:
        """Say why it does not compute in a precision; None: it does."""

    def refuses_options(self, options: Engine) -> str | None:
        """Say which option of ``[tensorrt]`` it does not know; None: it knows those given."""

    def toolchain(self, expert: Expert, spec: Spec) -> dict[str, str]:
        """Say versions, digests and GPU that a conversion depends on."""

    def convert(self, job: Job) -> Converted:
        """Make the files and verify them."""

    def why_not(self) -> str | None:
        """Say why it cannot run here; None: it can."""

    def runner(self, files: Mapping[str, Path], expert: Expert) -> Runner:
        """Open the files as they are served."""
