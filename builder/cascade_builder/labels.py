"""The names of the classes, one a line."""

from __future__ import annotations

from typing import Any

from cascade_router.errors import CascadeError, SpecError

from .factories import Factory
from .spec import Spec

__all__ = ["labels"]


def labels(spec: Spec) -> list[str] | None:
    """Read the names of the classes.

    Returns:
        C names in the order of the logits; None if the spec names none.

    Raises:
        SpecError: If they cannot be read, or are not one line of text for every class.
    """
    if spec.labels is None:
        return None
    where = f"labels {str(spec.labels)!r}"
    names = _read(spec, where)
    if len(names) != spec.classes:
        message = f"{where}: got {len(names)} names, expected {spec.classes}"
        raise SpecError(message, hint="one per class, in the order of the logits")
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or len(name.splitlines()) != 1:
            message = f"{where}: name {i} is {name!r}, expected one line of text"
            raise SpecError(message, hint="labels.txt holds one name a line")
    return [name.strip() for name in names]


def _read(spec: Spec, where: str) -> list[Any]:
    if isinstance(spec.labels, Factory):
        try:
            return list(spec.labels.run({}))
        except CascadeError:
            raise
        except Exception as exc:
            message = f"{where}: raised {type(exc).__name__}: {exc}"
            raise SpecError(message, hint="return a list of text") from exc
    assert spec.labels is not None
    try:
        return spec.labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        message = f"{where}: cannot be read: {exc}"
        raise SpecError(message, hint="give a UTF-8 text file") from exc
