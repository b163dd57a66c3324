"""An expert made by a Python function ``module:function``.

    [[expert]]
    name = "small"
    factory = "my_experts:small"
    arguments = { width = 64 }          # what it is called with
    weights = "small.safetensors"       # a file or folder, which it gets as `weights`; optional

The factory's module may define ``weights(**arguments)``, called with the same arguments: the paths
of every other file that the expert depends on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cascade_builder.factories import Factory, check_arguments
from cascade_router.errors import BuildError, CascadeError
from cascade_router.strict import Table

from .source import files_below, path_of, sha256_of, versions

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.spec import Input

__all__ = ["TORCH", "FactorySource", "arguments_of"]

TORCH = ["torch", "onnx", "onnxscript", "onnxruntime", "numpy"]
"""What turns a module into an ONNX graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorySource:
    """A function that returns a ``torch.nn.Module``.

    Attributes:
        factory: It.
        arguments: What it is called with.
        weights: File or folder that it gets as ``weights``; None: it gets none.
        sha256: Digest that the spec demands of ``weights``.
    """

    kind: ClassVar[str] = "factory"
    gives: ClassVar[str] = "module"

    factory: Factory
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    sha256: str | None = None

    @classmethod
    def read(cls, table: Table, folder: Path) -> FactorySource:
        """Take its keys from an ``[[expert]]`` table."""
        return cls(
            factory=Factory.parse(table.text("factory"), folder, f"{table.where}.factory"),
            arguments=arguments_of(table),
            weights=path_of(table, "weights", folder) if table.has("weights") else None,
            sha256=sha256_of(table),
        )

    @property
    def pinned(self) -> Path | None:
        """The weights."""
        return self.weights

    def said(self) -> dict[str, Any]:
        """Say function and arguments."""
        out = {"factory": str(self.factory), "arguments": dict(self.arguments)}
        return out if self.weights is None else {**out, "weights": self.weights.name}

    def code(self) -> dict[str, str]:
        """Say the digest of the module's file, and the exporter's packages."""
        from cascade_builder.manifest import file_digest

        return {"source": file_digest(self.factory.source()), **versions(TORCH, "build")}

    def files(self) -> list[Path]:
        """Name the weights, and what the module's ``weights`` names."""
        given = [] if self.weights is None else files_below(self.weights)
        try:
            named = self.factory.run_beside("weights", dict(self.arguments)) or []
            return [*given, *map(Path, named)]
        except CascadeError:
            raise
        except (Exception, SystemExit) as exc:  # any code may stand in the user's module
            message = f"{self.factory.module} raised {type(exc).__name__}: {exc}"
            hint = "check `arguments`, and that its packages are there"
            raise BuildError(message, hint=hint) from exc

    def module(self, form: Input, where: str) -> nn.Module:
        """Call the function."""
        import torch

        del form  # the function's own matter
        arguments = dict(self.arguments)
        if self.weights is not None:
            arguments["weights"] = str(self.weights)
        try:
            module = self.factory.run(arguments)
        except CascadeError:
            raise
        except (Exception, SystemExit) as exc:
            message = f"{where}: factory {str(self.factory)!r} raised {type(exc).__name__}: {exc}"
            hint = "check `arguments`; call it in Python to see where"
            raise BuildError(message, hint=hint) from exc
        if not isinstance(module, torch.nn.Module):
            got = type(module).__name__
            message = f"{where}: factory {str(self.factory)!r} returned {got}, expected a Module"
            raise BuildError(message, hint="return a torch.nn.Module in eval mode")
        return module


def arguments_of(table: Table) -> dict[str, Any]:
    """Take the table ``arguments``: part of what identifies an expert, so JSON must carry it.

    Raises:
        SpecError: If it cannot.
    """
    arguments = table.table("arguments", {})
    values = arguments.rest()
    check_arguments(values, arguments.where)
    return values
