"""What a source can do, and how a spec names its files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cascade_router.errors import BuildError, SpecError
from cascade_router.strict import Table

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.spec import Input

__all__ = [
    "MakesModule",
    "Source",
    "digest_of_many",
    "files_below",
    "path_of",
    "sha256_of",
    "versions",
]

_SHA256 = re.compile(r"(sha256:)?([0-9a-f]{64})")


class Source(Protocol):
    """Where an expert comes from: frozen, read from a spec, and cheap until an expert is made."""

    kind: ClassVar[str]
    """Its key in ``[[expert]]``."""

    gives: ClassVar[str]
    """What it can do: ``module``, ``onnx``, ``engine`` or ``served``."""

    @property
    def sha256(self) -> str | None:
        """``sha256:...`` that the spec demands of ``pinned``; None: none."""

    @property
    def pinned(self) -> Path | None:
        """File or folder that ``sha256`` is about; None: there is none."""

    def said(self) -> dict[str, Any]:
        """Say what the spec says of it, JSON-able and without a folder of this machine.

        It is the part of an expert's identity that needs no file; ``manifest.json`` repeats it.
        """

    def code(self) -> dict[str, str]:
        """Say digests of code and versions of packages that it is made by, by name.

        Raises:
            SpecError: If code is missing.
            BuildError: If a package is missing; says which extra brings it.
        """

    def files(self) -> list[Path]:
        """Name the files whose contents the expert depends on; may run the user's code.

        Raises:
            SpecError: If one cannot be found.
            BuildError: If they cannot be named.
        """


class MakesModule(Source, Protocol):
    """A source that gives ``module``."""

    def module(self, form: Input, where: str) -> nn.Module:
        """Make the module: canonical rows to logits.

        Args:
            form: The canonical rows.
            where: What to call the expert in messages.

        Raises:
            BuildError: If that fails.
        """


def path_of(table: Table, key: str, folder: Path) -> Path:
    """Take a path that must exist, relative to the spec's folder.

    Raises:
        SpecError: If there is nothing there.
    """
    path = folder / Path(table.text(key)).expanduser()
    if not path.exists():
        message = f"{table.where}.{key}: there is no file or folder {str(path)!r}"
        raise SpecError(message, hint="relative paths start at the spec's folder")
    return path


def sha256_of(table: Table) -> str | None:
    """Take the key ``sha256``, with or without the word in front.

    Raises:
        SpecError: If it is no digest.
    """
    if not table.has("sha256"):
        return None
    text = table.text("sha256")
    found = _SHA256.fullmatch(text.lower())
    if found is None:
        message = f"{table.where}.sha256: got {text!r}, expected 64 hexadecimal digits"
        raise SpecError(message, hint="as `sha256sum FILE` prints it")
    return f"sha256:{found[2]}"


def files_below(path: Path) -> list[Path]:
    """Name a file itself, or all files of a folder, hidden ones left out."""
    if path.is_file():
        return [path]
    found = (one for one in sorted(path.rglob("*")) if one.is_file())
    return [one for one in found if not _hidden(one.relative_to(path))]


def digest_of_many(digests: Mapping[str, str]) -> str:
    """Say one ``sha256:...`` of several files: the file's own where there is one.

    Args:
        digests: ``sha256:...`` by name, relative to the folder the files lie in.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def versions(names: Sequence[str], extra: str) -> dict[str, str]:
    """Say the versions of packages without importing them.

    Args:
        names: As pip calls them.
        extra: Of this project, that brings them.

    Raises:
        BuildError: If one is missing.
    """
    try:
        return {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as exc:
        message = f"build: the package {exc.name!r} is not installed"
        raise BuildError(message, hint=f"pip install 'triton-cascade[{extra}]'") from exc


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
