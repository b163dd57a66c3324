"""Input rows from files and arrays, checked against what the model takes.

A picture stays as it lies in the file: the server decodes it, so a row means the same to every
client. Numbers are cast where nothing but precision is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from cascade_router.errors import RequestError

from .calls import Array, Port, as_bytes
from .tensors import DTYPES

__all__ = [
    "SUFFIXES",
    "Row",
    "files_in",
    "random_rows",
    "read_file",
    "read_rows",
    "rows_from",
    "stack",
]

Row: TypeAlias = "bytes | bytearray | str | Path | Array"
"""A picture's bytes, a file, or one row of numbers."""

SUFFIXES = {
    True: (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    False: (".npy",),
}
"""What a folder is searched for: pictures where the input is BYTES, arrays where it is not."""


def files_in(paths: Iterable[Path], port: Port) -> list[Path]:
    """List the files, folders replaced by what they hold for this input, in order of name.

    Raises:
        RequestError: If a path is missing, a folder holds no such file, or there is none at all.
    """
    suffixes = SUFFIXES[port.datatype == "BYTES"]
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
        if not found:
            message = f"{path}: no file here for input {port.name}, expected {', '.join(suffixes)}"
            raise RequestError(message, hint="name the files themselves to try them anyway")
        files += found
    return files


def read_file(path: Path, port: Port) -> list[Array]:
    """Read the rows of one file: a picture is one, a ``.npy`` array one or several.

    Raises:
        RequestError: If it is missing, empty or unreadable, or its array does not fit the input.
    """
    if port.datatype == "BYTES":
        return [as_bytes([_content(path)])]
    if path.suffix.lower() != ".npy":
        message = f"{path}: input {port.name} takes numbers, expected a .npy array"
        raise RequestError(message, hint="write one with numpy.save")
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise _unreadable(path, exc) from exc
    return _rows_of(array, port, str(path))


def read_rows(paths: Iterable[Path], n_random: int | None, port: Port, seed: int) -> list[Array]:
    """Read every row of files and folders, or draw random ones where those are asked for.

    Raises:
        RequestError: As `files_in`, `read_file` and `random_rows`.
    """
    if n_random is not None:
        return random_rows(port, n_random, seed)
    return [row for path in files_in(paths, port) for row in read_file(path, port)]


def rows_from(given: Sequence[Row] | Array, port: Port) -> list[Array]:
    """Turn what a caller gave into rows of the input's dtype and shape.

    Args:
        given: Pictures (bytes) or files, or arrays of one row each.
        port: The input they are for.

    Returns:
        Arrays of the port's shape and dtype, one per row.

    Raises:
        RequestError: If one does not fit; it is named.
        ValueError: If ``given`` is a single row and not a sequence of rows.
    """
    if isinstance(given, bytes | bytearray | str | Path):
        message = f"rows: got one {type(given).__name__}, expected a list of rows"
        raise ValueError(message)
    rows: list[Array] = []
    for i, row in enumerate(given):
        if isinstance(row, str | Path):
            rows += read_file(Path(row), port)
        elif isinstance(row, bytes | bytearray):
            rows.append(_picture(bytes(row), port, f"rows[{i}]"))
        else:
            rows.append(_cast(np.asarray(row), port, f"rows[{i}]"))
    return rows


def random_rows(port: Port, n: int, seed: int = 0) -> list[Array]:
    """Draw rows that fit an input of numbers: they load a server and mean nothing.

    Args:
        port: The input; a length of -1 becomes 1.
        n: How many.
        seed: Of the generator.

    Raises:
        RequestError: If the input takes bytes.
    """
    if port.datatype == "BYTES":
        message = f"input {port.name} takes files, not numbers: none can be drawn"
        raise RequestError(message, hint="give pictures")
    rng = np.random.default_rng(seed)
    dtype = DTYPES[port.datatype]
    shape = (n, *(max(length, 1) for length in port.shape))
    if dtype.kind == "f":
        return list(rng.standard_normal(shape).astype(dtype))
    high = 2 if dtype.kind == "b" else 128
    return list(rng.integers(0, high, shape).astype(dtype))


def stack(rows: Sequence[Array]) -> Array:
    """Put rows into one batch.

    Raises:
        RequestError: If their shapes differ (an input with a length of -1 allows many).
    """
    shapes = {row.shape for row in rows}
    if len(shapes) > 1:
        message = f"rows of one request differ in shape: {sorted(shapes)}"
        raise RequestError(message, hint="send them one by one")
    return np.stack(rows)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if not content:
        message = f"{path}: the file is empty, expected a picture"
        raise RequestError(message)
    return content


def _unreadable(path: Path, exc: Exception) -> RequestError:
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return RequestError(f"{path}: cannot be read: {reason}", hint="is the path right?")


def _picture(content: bytes, port: Port, where: str) -> Array:
    if port.datatype != "BYTES":
        message = f"{where}: got {len(content)} bytes, expected {_expected(port)}"
        raise RequestError(message)
    if not content:
        message = f"{where}: got no bytes, expected an encoded picture"
        raise RequestError(message)
    return as_bytes([content])


def _rows_of(array: Array, port: Port, where: str) -> list[Array]:
    if array.ndim == len(port.shape) + 1:
        return [_cast(row, port, where) for row in array]
    return [_cast(array, port, where)]


def _cast(array: Array, port: Port, where: str) -> Array:
    if port.datatype == "BYTES":
        if array.dtype == object and array.shape == port.shape:
            return array  # a row that was read before
        message = f"{where}: got an array {array.dtype} {array.shape}, expected an encoded picture"
        raise RequestError(message, hint="give the bytes of the file, or its path")
    fits = len(array.shape) == len(port.shape) and all(
        want in (-1, got) for want, got in zip(port.shape, array.shape, strict=True)
    )
    dtype = DTYPES[port.datatype]
    if not fits or not np.can_cast(array.dtype, dtype, "same_kind"):
        message = f"{where}: got {array.dtype} {list(array.shape)}, expected {_expected(port)}"
        raise RequestError(message)
    return array.astype(dtype, copy=False)


def _expected(port: Port) -> str:
    shape = [n if n >= 0 else "any" for n in port.shape]
    return f"{DTYPES[port.datatype]} {shape} for input {port.name}".replace("'", "")
