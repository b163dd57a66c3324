"""Holds a model repository against what Triton is known to do, before a server has to.

Every rule says what is wrong in which model, why it matters and what to do. Rules lie in
``check_models``, ``check_tensorrt`` and ``check_cascade``; each was seen to matter on a real server
or stands in Triton's sources.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError

__all__ = ["Finding", "Model", "Repository", "Rule", "check", "rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A folder of a repository.

    Attributes:
        folder: Where it lies.
        config: ``ModelConfig`` of its ``config.pbtxt``; an empty one where that cannot be read.
        problem: Why it cannot be read; None: it can.
    """

    folder: Path
    config: Any
    problem: str | None = None

    @property
    def name(self) -> str:
        """Of the folder, which is the model's."""
        return self.folder.name

    @property
    def runs_on(self) -> str:
        """Its backend: ``ensemble``, ``python``, ``onnxruntime``, ``tensorrt`` or another."""
        platforms = {"tensorrt_plan": "tensorrt", "onnxruntime_onnx": "onnxruntime"}
        platform = str(self.config.platform)
        return str(self.config.backend) or platforms.get(platform, platform)

    @property
    def version(self) -> Path | None:
        """The newest version folder, which Triton serves; None: there is none."""
        found = [one for one in self.folder.iterdir() if one.is_dir() and one.name.isdecimal()]
        return max(found, key=lambda one: int(one.name), default=None)

    @property
    def core_module(self) -> str | None:
        """Which module of the router core a generated ``model.py`` runs; None: another's code."""
        if self.version is None or not (self.version / "model.py").is_file():
            return None
        text = (self.version / "model.py").read_text(encoding="utf-8", errors="replace")
        _, found, rest = text.partition("from .cascade_router.")
        return rest.split()[0] if found else None

    @property
    def is_router(self) -> bool:
        """Say whether it is the router of a cascade."""
        return self.core_module == "backend"

    @property
    def instances(self) -> int:
        """How many instances its groups ask for; a group without a count has one."""
        return sum(max(1, group.count) for group in self.config.instance_group)

    def manifest(self) -> Mapping[str, Any]:
        """Read the router's ``manifest.json``; empty where there is none that can be read."""
        if self.version is None:
            return {}
        try:
            values = json.loads((self.version / "manifest.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A model repository as it lies on disk.

    Attributes:
        folder: Where.
        models: By name.
    """

    folder: Path
    models: Mapping[str, Model]

    @classmethod
    def read(cls, folder: Path) -> Repository:
        """Read every config.

        Raises:
            BuildError: If it is no model repository.
        """
        from google.protobuf.text_format import ParseError

        from .triton_config import parse

        models = {}
        if not folder.is_dir():
            message = f"{folder}: there is no such folder"
            raise BuildError(message, hint="run `cascade-builder build`, or give its path")
        for path in sorted(folder.glob("*/config.pbtxt")):
            problem = None
            try:
                config = parse(path.read_text(encoding="utf-8"))
            except (ParseError, OSError, UnicodeDecodeError) as exc:
                config, problem = parse(""), f"{exc}".splitlines()[0]
            models[path.parent.name] = Model(folder=path.parent, config=config, problem=problem)
        if not models:
            message = f"{folder}: no model repository (no */config.pbtxt)"
            raise BuildError(message, hint="run `cascade-builder build`, or give its path")
        return cls(folder=folder, models=models)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Something that is known to go wrong.

    Attributes:
        name: Of few words.
        level: ``error``: it does not load, or answers wrongly; ``warning``: it costs something.
        why: What Triton does.
        fix: What to do.
        look: Says what is wrong with a model, once for each thing.
    """

    name: str
    level: str
    why: str
    fix: str
    look: Callable[[Model, Repository], Iterator[str]] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that a model breaks; fields as in ``Rule``."""

    rule: str
    level: str
    model: str
    what: str
    why: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """Write for machines."""
        return asdict(self)


def rules() -> list[Rule]:
    """List all rules."""
    from . import check_cascade, check_models, check_tensorrt

    return [*check_models.RULES, *check_tensorrt.RULES, *check_cascade.RULES]


def check(folder: Path) -> list[Finding]:
    """Hold a repository against the rules.

    Args:
        folder: A model repository.

    Returns:
        What was found, in the order of the models; errors of a model first.

    Raises:
        BuildError: If it is no model repository.
    """
    repository = Repository.read(folder)
    out = []
    for model in repository.models.values():
        found = list(_found(model, repository, rules()))
        out += sorted(found, key=lambda one: one.level)
    return out


def _found(model: Model, repository: Repository, known: Sequence[Rule]) -> Iterator[Finding]:
    """Look at one model; of a config that cannot be read only that is said."""
    for rule in known:
        if model.problem is not None and rule.name != "readable":
            continue
        for what in rule.look(model, repository):
            yield Finding(
                rule=rule.name,
                level=rule.level,
                model=model.name,
                what=what,
                why=rule.why,
                fix=rule.fix,
            )
