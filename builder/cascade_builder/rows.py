"""Real rows: read as a client would send them, made canonical as the served cascade does.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import CascadeError, RecordsError

from .data_text import lines_of
from .spec import DTYPES, Input, Rows

__all__ = ["SUFFIXES", "canonical", "raw", "row"]

SUFFIXES = {
    "image": {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"},
    "text": {".txt"},
    "tensor": {".npy"},
}
"""Files that may hold a row, by the kind of input."""


def raw(rows: Rows, kind: str, limit: int | None = None) -> list[Any]:
    """Read rows as a client would send them.

    Args:
        rows: Where they come from.
        kind: One of ``spec.KINDS``.
        limit: Read no more than this many; None: all.

    Returns:
        N > 0 rows: ``bytes`` of encoded pictures or of texts, text, or arrays.

    Raises:
        RecordsError: If there are none, or they cannot be read.
    """
    if rows.folder is not None:
        values = _from_folder(rows.folder, kind, limit)
    else:
        values = _from_factory(rows)[:limit]
    if not values:
        message = f"rows: got none from {rows.factory or rows.folder}, expected at least 1"
        raise RecordsError(message, hint="parity and cost are measured on real rows")
    return values


def canonical(values: Sequence[Any], form: Input) -> npt.NDArray[Any]:
    """Make rows canonical.

    Args:
        values: N rows as ``raw`` gives them.
        form: What the experts share.

    Returns:
        (N, *form.shape) of ``form.dtype``.

    Raises:
        RecordsError: If a row cannot be read or does not fit; it is named.
    """
    return np.stack([row(value, form, f"rows[{i}]") for i, value in enumerate(values)])


def row(value: Any, form: Input, where: str) -> npt.NDArray[Any]:
    """Make one row canonical.

    Args:
        value: As ``raw`` gives it.
        form: What the experts share.
        where: What to call it in a message.

    Raises:
        RecordsError: If it cannot be read or does not fit.
    """
    if form.kind == "text" and form.text is not None:
        return form.text.row(value, where)
    return (_pixels if form.kind == "image" else _tensor)(value, form, where)


def _pixels(value: Any, form: Input, where: str) -> npt.NDArray[Any]:
    from cascade_router.images import pixels_from_bytes

    if not isinstance(value, bytes):
        message = f"{where}: got {type(value).__name__}, expected the bytes of a picture"
        raise RecordsError(message, hint="return Path(...).read_bytes() for every picture")
    try:
        return np.asarray(pixels_from_bytes(value, form.size))
    except CascadeError as exc:
        message = f"{where}: {exc.message}"
        raise RecordsError(message, hint=exc.hint) from exc


def _tensor(value: Any, form: Input, where: str) -> npt.NDArray[Any]:
    array = np.asarray(value)
    dtype = np.dtype(DTYPES[form.dtype])
    if array.shape != form.shape or not np.can_cast(array.dtype, dtype, casting="same_kind"):
        got = f"{array.dtype} {list(array.shape)}"
        message = f"{where}: got {got}, expected {dtype} {list(form.shape)}"
        raise RecordsError(message, hint="rows must fit [input] of the spec")
    return array.astype(dtype)


def _from_factory(rows: Rows) -> list[Any]:
    assert rows.factory is not None
    try:
        return list(rows.factory.run({}))
    except CascadeError:
        raise
    except Exception as exc:
        message = f"rows: factory {str(rows.factory)!r} raised {type(exc).__name__}: {exc}"
        raise RecordsError(message, hint="call it in Python to see where") from exc


def _from_folder(folder: Path, kind: str, limit: int | None) -> list[Any]:
    suffixes = SUFFIXES[kind]
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if kind == "text":
        return [text for path in files for _, text in lines_of(path)][:limit]
    return [path.read_bytes() if kind == "image" else _array(path) for path in files[:limit]]


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as exc:
        message = f"rows: {path.name} is no array: {exc}"
        raise RecordsError(message, hint="write it with numpy.save") from exc
