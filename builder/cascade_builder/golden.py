"""Golden rows: real rows and what every expert answered when it was built.

They lie beside the router as ``golden.npz``. Whoever loads an expert later, on whatever machine,
can see that it still answers so. Shapes: n rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError

from .artifacts import Task, dump, json_of, new
from .expert_costs import runner_of
from .manifest import Built
from .spec import Spec

__all__ = ["FILE", "Golden", "golden_file", "unmade"]

FILE = "golden.npz"

_ROWS = 16
_NOTE = "key.json"
_LOGITS = "logits_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Rows and answers.

    Attributes:
        rows: (n, ...) canonical rows.
        logits: (n, C) float32 of each expert, by name; an expert that could not run on the machine
            that built it is left out.
    """

    rows: npt.NDArray[Any]
    logits: Mapping[str, npt.NDArray[np.float32]]

    @classmethod
    def read(cls, path: Path) -> Golden:
        """Read a file.

        Raises:
            BuildError: If it is missing or broken.
        """
        try:
            with np.load(path, allow_pickle=False) as values:
                logits = {
                    name.removeprefix(_LOGITS): np.asarray(values[name])
                    for name in values.files
                    if name.startswith(_LOGITS)
                }
                return cls(rows=np.asarray(values["rows"]), logits=logits)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as exc:
            message = f"{path}: the golden rows cannot be read: {exc}"
            raise BuildError(message, hint="run `cascade-builder build`") from exc

    def write(self, path: Path) -> None:
        """Write it; equal values give equal bytes."""
        logits = {f"{_LOGITS}{name}": values for name, values in sorted(self.logits.items())}
        np.savez(path, rows=self.rows, **logits)


def golden_file(
    folder: Path,
    spec: Spec,
    target: str,
    tasks: Sequence[Task],
    built: Sequence[Built],
    rows: Callable[[], npt.NDArray[Any]],
    tell: Callable[[str], None],
) -> Path:
    """Find the golden rows of these experts, or make them.

    Args:
        folder: Keeps what was built for the cascade.
        spec: The cascade.
        target: What runs the experts.
        tasks: One per expert.
        built: What came of them, in the same order.
        rows: Gives canonical rows; called only if they must be made.
        tell: Takes progress.
    """
    path = _place(folder, tasks)
    if path is None:
        tell("keeping golden rows")
        some = rows()[:_ROWS]
        runs = {one.expert.name: runner_of(one, spec, target) for one in built}
        golden = Golden(
            rows=some,
            logits={
                name: np.concatenate([run(some[i : i + 1]) for i in range(len(some))])
                for name, run in runs.items()
                if run is not None
            },
        )
        with new(folder / "golden") as draft:
            golden.write(draft / FILE)
            (draft / _NOTE).write_bytes(dump(_key(tasks)))
        path = folder / "golden" / FILE
    return path


def unmade(folder: Path, tasks: Sequence[Task]) -> Path:
    """Name the file that ``golden_file`` would give; one that is not there if it must be made."""
    return _place(folder, tasks) or folder / "golden" / "unmade"


def _place(folder: Path, tasks: Sequence[Task]) -> Path | None:
    path = folder / "golden" / FILE
    known = json_of(folder / "golden" / _NOTE) == _key(tasks)
    return path if known and path.is_file() else None


def _key(tasks: Sequence[Task]) -> dict[str, Any]:
    """Say what the golden rows depend on: the input is part of every expert's key."""
    return {"experts": {task.expert.name: task.key for task in tasks}}
