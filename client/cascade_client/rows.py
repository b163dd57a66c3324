"""Input rows from files and arrays, checked against what the model takes.

A picture or a text stays as it lies in the file: the server decodes it, so a row means the same to
every client. Numbers are cast where nothing but precision is lost.
"""

from __future__ import annotations

import struct
import zlib
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
    "canary",
    "files_in",
    "kind_of",
    "random_rows",
    "read_file",
    "read_rows",
    "row_names",
    "rows_from",
    "stack",
]

Row: TypeAlias = "bytes | bytearray | str | Path | Array"
"""Bytes of a picture or a text, a file, or one row of numbers; text where texts are taken."""

SUFFIXES = {
    "image": (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "text": (".txt",),
    "tensor": (".npy",),
}
"""What a folder is searched for, by what the input takes."""

_SHOWN = 40
"""Letters of a text that name its row."""

_BOM = b"\xef\xbb\xbf"


def kind_of(port: Port) -> str:
    """Say what an input takes: ``image``, ``text`` or ``tensor``."""
    if port.datatype != "BYTES":
        return "tensor"
    return "text" if port.name == "TEXT" else "image"


def files_in(paths: Iterable[Path], port: Port) -> list[Path]:
    """List the files, folders replaced by what they hold for this input, in order of name.

    Raises:
        RequestError: If a path is missing, a folder holds no such file, or there is none at all.
    """
    suffixes = SUFFIXES[kind_of(port)]
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
    """Read the rows of one file.

    A picture is one, a ``.npy`` array one or several; a text file has one a line, empty ones left
    out.

    Raises:
        RequestError: If it is missing, empty or unreadable, or its array does not fit the input.
    """
    kind = kind_of(port)
    if kind == "image":
        return [as_bytes([_content(path, "a picture")])]
    if kind == "text":
        lines = _content(path, "a text a line").removeprefix(_BOM).splitlines()
        return [as_bytes([line]) for line in lines if line.strip()]
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
        given: Pictures (bytes) or files; texts (``str`` or bytes) or files (``Path``); arrays of
            one row each or files.
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
        if isinstance(row, str) and kind_of(port) == "text":
            rows.append(as_bytes([row.encode("utf-8", "surrogatepass")]))
        elif isinstance(row, str | Path):
            rows += read_file(Path(row), port)
        elif isinstance(row, bytes | bytearray):
            rows.append(_encoded(bytes(row), port, f"rows[{i}]"))
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
        raise RequestError(message, hint="give files")
    rng = np.random.default_rng(seed)
    dtype = DTYPES[port.datatype]
    shape = (n, *(max(length, 1) for length in port.shape))
    if dtype.kind == "f":
        return list(rng.standard_normal(shape).astype(dtype))
    high = 2 if dtype.kind == "b" else 128
    return list(rng.integers(0, high, shape).astype(dtype))


def canary(port: Port) -> Array:
    """Make a row that every cascade with such an input answers."""
    match kind_of(port):
        case "image":
            return as_bytes([_grey_png(8)])
        case "text":
            return as_bytes([b"a"])  # few letters: rows may be short
        case _:
            return random_rows(port, 1)[0]


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


def row_names(path: Path, rows: Sequence[Array], port: Port) -> list[str]:
    """Name the rows of a file: by the file, by their place in it, or by how a text begins."""
    if kind_of(port) == "text":
        return [_beginning(row.item()) for row in rows]
    return [str(path)] if len(rows) == 1 else [f"{path}[{k}]" for k in range(len(rows))]


def _beginning(text: bytes) -> str:
    shown = text.decode("utf-8", "replace").strip()
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 1]}…"


def _content(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise _unreadable(path, exc) from exc
    if not content:
        message = f"{path}: the file is empty, expected {expected}"
        raise RequestError(message)
    return content


def _unreadable(path: Path, exc: Exception) -> RequestError:
    reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return RequestError(f"{path}: cannot be read: {reason}", hint="is the path right?")


def _encoded(content: bytes, port: Port, where: str) -> Array:
    if port.datatype != "BYTES":
        message = f"{where}: got {len(content)} bytes, expected {_expected(port)}"
        raise RequestError(message)
    if not content:
        wanted = "a text" if kind_of(port) == "text" else "an encoded picture"
        message = f"{where}: got no bytes, expected {wanted}"
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
        wanted = "a text" if kind_of(port) == "text" else "an encoded picture"
        message = f"{where}: got an array {array.dtype} {array.shape}, expected {wanted}"
        raise RequestError(message, hint="give its bytes, or the path of a file")
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


def _grey_png(size: int) -> bytes:
    """Draw a grey square as a PNG, so that no picture file need travel with the client."""
    pixels = np.full((size, size + 1), 128, dtype=np.uint8)
    pixels[:, 0] = 0  # each line starts with its filter: none
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(pixels.tobytes()),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )
