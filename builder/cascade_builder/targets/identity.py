"""What a conversion depends on beside its expert: versions and code, read without importing."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

from cascade_router.errors import BuildError

__all__ = ["PRECISION", "code", "module_there", "one_of", "versions"]

PRECISION = ("precision/trunk", "precision/half", "precision/ranges")
"""Modules that decide what a graph at another precision is."""

_PACKAGE = Path(__file__).parents[1]


def versions(*names: str, extra: str) -> dict[str, str]:
    """Say the versions of packages.

    Args:
        names: As pip calls them.
        extra: Of this project, that brings them.

    Raises:
        BuildError: If one is not installed.
    """
    try:
        return {name: importlib.metadata.version(name) for name in names}
    except importlib.metadata.PackageNotFoundError as exc:
        message = f"build: the package {exc.name!r} is not installed"
        raise BuildError(message, hint=f"pip install 'triton-cascade[{extra}]'") from exc


def one_of(*names: str, extra: str) -> dict[str, str]:
    """Say the version of the first of some packages, whose builds have names of their own.

    Raises:
        BuildError: If none is installed.
    """
    for name in names:
        try:
            return {name: importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions(names[0], extra=extra)


def module_there(name: str) -> bool:
    """Say whether a module can be imported, without doing so."""
    return importlib.util.find_spec(name) is not None


@functools.cache
def code(*modules: str) -> dict[str, str]:
    """Say digests of this package's own modules, such as ``comparison`` or ``targets/graph``."""
    return {name: _digest(_PACKAGE / f"{name}.py") for name in modules}


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
