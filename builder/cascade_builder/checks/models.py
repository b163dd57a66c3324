"""The models of a repository as they lie on disk."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError

__all__ = ["Model", "Tensor", "fit", "read", "staged", "tensors"]

Tensor = tuple[str, tuple[int, ...]]
"""Type and dims of an input or output, as a caller sees them: -1 stands for any length."""

_PLATFORMS = {"tensorrt_plan": "tensorrt", "onnxruntime_onnx": "onnxruntime"}
_CONFIG = "config.pbtxt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A folder of a repository: Triton takes each for a model, hidden ones too.

    Attributes:
        folder: Where it lies.
        config: ``ModelConfig`` of its ``config.pbtxt``; an empty one where that cannot be read.
        problem: Why it cannot be read; None: it can.
        neighbours: All models that the server loads, by name.
    """

    folder: Path
    config: Any
    problem: str | None
    neighbours: Mapping[str, Model] = field(repr=False, compare=False)

    @property
    def name(self) -> str:
        """Of the folder, which is the model's."""
        return self.folder.name

    @property
    def runs_on(self) -> str:
        """Its backend: ``ensemble``, ``python``, ``onnxruntime``, ``tensorrt`` or another."""
        platform = str(self.config.platform)
        return str(self.config.backend) or _PLATFORMS.get(platform, platform)

    @property
    def version(self) -> Path | None:
        """The version folder that a call gets: the newest one served; None: there is none."""
        found = [one for one in self.folder.iterdir() if one.is_dir() and one.name.isdecimal()]
        if self.config.version_policy.HasField("specific"):
            wanted = set(self.config.version_policy.specific.versions)
            found = [one for one in found if int(one.name) in wanted]
        return max(found, key=lambda one: int(one.name), default=None)

    def file(self, name: str) -> Path | None:
        """Find a file, or a folder that stands for one, in the version served."""
        path = None if self.version is None else self.version / name
        return path if path is not None and path.exists() else None

    @property
    def core_module(self) -> str | None:
        """Which module of the router core a generated ``model.py`` runs; None: another's code."""
        path = self.file("model.py")
        if path is None or not path.is_file():
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
        _, found, rest = text.partition("from .cascade_router.")
        return rest.split()[0] if found and rest.split() else None

    @property
    def is_router(self) -> bool:
        """Say whether it is the router of a cascade."""
        return self.core_module == "backend"

    @property
    def instances(self) -> int:
        """How many instances its groups ask for; a group without a count has one."""
        return sum(max(1, group.count) for group in self.config.instance_group)

    @property
    def steps(self) -> list[tuple[Any, Model | None]]:
        """The steps of an ensemble, each with the model it names, where that is known."""
        steps = self.config.ensemble_scheduling.step
        return [(step, self._known(step.model_name)) for step in steps]

    @property
    def experts(self) -> list[tuple[Mapping[str, Any], Model | None]]:
        """What a router's manifest says of each expert, with its model, where that is known."""
        listed = self.manifest().get("experts") if self.is_router else None
        return [
            (one, self._known(str(one.get("model"))))
            for one in (listed if isinstance(listed, list) else [])
            if isinstance(one, dict)
        ]

    @property
    def expert_here(self) -> str | None:
        """The expert that a router runs in its own process; None: none."""
        options = self.manifest().get("router") if self.is_router else None
        return str(options["expert_here"]) if options and "expert_here" in options else None

    def manifest(self) -> Mapping[str, Any]:
        """Read ``manifest.json``; empty where there is none that can be read."""
        path = self.file("manifest.json")
        try:
            values = {} if path is None else json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def _known(self, name: str) -> Model | None:
        """Find a neighbour whose config can be read."""
        model = self.neighbours.get(name)
        return model if model is not None and model.problem is None else None


def read(folders: Sequence[Path]) -> list[Model]:
    """Read the models of repositories that one server loads together, in order.

    Raises:
        BuildError: If a folder is no model repository.
    """
    for folder in folders:
        if not folder.is_dir():
            message = f"{folder}: there is no such folder"
            raise BuildError(message, hint="run `cascade-builder build`, or give its path")
        if not any(folder.glob(f"*/{_CONFIG}")):
            message = f"{folder}: no model repository (no */{_CONFIG})"
            raise BuildError(message, hint="run `cascade-builder build`, or give its path")
    return _models(one for folder in folders for one in _folders(folder))


def staged(root: Path, staging: Path, removed: Collection[str]) -> list[Model]:
    """Read the models of a repository as it will be when staged folders have taken their place."""
    new = _folders(staging)
    gone = {*removed, *(one.name for one in new)}
    stay = [one for one in _folders(root) if one.name not in gone] if root.is_dir() else []
    return _models([*stay, *new])


def _folders(root: Path) -> list[Path]:
    return sorted(one for one in root.iterdir() if one.is_dir())


def _models(folders: Iterable[Path]) -> list[Model]:
    found: dict[str, Model] = {}
    for folder in folders:
        config, problem = _config(folder / _CONFIG)
        found[folder.name] = Model(folder=folder, config=config, problem=problem, neighbours=found)
    return list(found.values())


def _config(path: Path) -> tuple[Any, str | None]:
    """Read a config; Triton can do without one only where a file in the folder tells enough."""
    from google.protobuf.text_format import ParseError

    from cascade_builder.triton_config import parse

    try:
        return parse(path.read_text(encoding="utf-8")), None
    except FileNotFoundError:
        return parse(""), f"there is no {_CONFIG}"
    except (ParseError, OSError, UnicodeDecodeError) as exc:
        line = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        return parse(""), f"{_CONFIG} is not what Triton's schema knows: {line}"


def tensors(model: Model, which: str) -> dict[str, Tensor]:
    """Say the tensors of a model by name, with the batch dimension that a caller sees.

    Args:
        model: It.
        which: ``input`` or ``output``.
    """
    from tritonclient.grpc import model_config_pb2

    kinds = model_config_pb2.DataType
    batch = (-1,) if model.config.max_batch_size > 0 else ()
    ports = getattr(model.config, which)
    return {one.name: (kinds.Name(one.data_type), (*batch, *one.dims)) for one in ports}


def fit(given: Tensor, taken: Tensor) -> bool:
    """Say whether a tensor is what is expected.

    Example:
        >>> fit(("TYPE_FP32", (-1, 8)), ("TYPE_FP32", (-1, -1)))
        True
    """
    if given[0] != taken[0] or len(given[1]) != len(taken[1]):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(given[1], taken[1], strict=True))
