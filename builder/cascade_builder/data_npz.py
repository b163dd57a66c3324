"""Rows in an NPZ file, read one by one: the file may be larger than memory.

Shapes: N rows.
"""

from __future__ import annotations

import hashlib
import weakref
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from cascade_router.errors import RecordsError

from .class_numbers import ClassNumbers
from .spec import DTYPES, Input

__all__ = ["ArrayData"]

_FORMAT: Any = np.lib.format  # not typed
_BROKEN = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class ArrayData:
    """A ``data.DataSet`` of one array of rows, canonical already.

    Args:
        path: The NPZ file.
        form: What its rows must be.
        classes: Checks the labels; None: leave labels alone.
        x: Name of the rows.
        y: Name of the labels; None: ``y`` if it is there.

    Raises:
        RecordsError: If an array is missing, holds objects or does not fit.
    """

    kind = "tensor"
    notes: Sequence[str] = ()
    missing: Sequence[tuple[str, str]] = ()

    def __init__(
        self, path: Path, form: Input, classes: ClassNumbers | None, *, x: str, y: str | None
    ) -> None:
        self._path = path
        self._x = x
        try:
            raw = path.open("rb")
            # Closed with the last reference to this object, also where opening fails half way.
            weakref.finalize(self, raw.close)
            self._zip = zipfile.ZipFile(raw)
        except _BROKEN as exc:
            self._refuse(f"cannot be read: {exc}", "write it with numpy.savez", exc)
        self._file, shape, self._dtype = self._opened(x)
        self._start = self._file.tell()
        self._row, self._n = shape[1:], shape[0] if shape else 0
        self._check(form, shape)
        self.labels = None if classes is None else self._labels(classes, y)
        stat = path.stat()
        text = f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{x}\0{y}\0{classes is None}"
        self.digest = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def __len__(self) -> int:
        """N."""
        return self._n

    def name(self, number: int) -> str:
        """Name the row by its place."""
        return f"{self._path.name} {self._x}[{number}]"

    def row(self, number: int) -> npt.NDArray[Any]:
        """Read a row; ascending numbers are quick, since a compressed file has no way back."""
        size = self._dtype.itemsize * int(np.prod(self._row, dtype=np.int64))
        try:
            self._file.seek(self._start + number * size)
            data = self._file.read(size)
        except _BROKEN as exc:
            message = f"cannot be read: {exc}"
            raise RecordsError(message) from exc
        if len(data) != size:
            message = f"got {len(data)} bytes, expected {size}: the file is cut short"
            raise RecordsError(message)
        return np.frombuffer(data, dtype=self._dtype).reshape(self._row)

    def _opened(self, name: str) -> tuple[IO[bytes], tuple[int, ...], np.dtype[Any]]:
        """Open an array up to its first row."""
        names = [member.removesuffix(".npy") for member in self._zip.namelist()]
        if name not in names:
            self._refuse(
                f"there is no array {name!r}, got {', '.join(names) or 'none'}",
                "--x NAME and --y NAME say which arrays hold rows and labels",
            )
        try:
            file = self._zip.open(f"{name}.npy")
            version = _FORMAT.read_magic(file)
            read = _FORMAT.read_array_header_1_0
            if version != (1, 0):
                read = _FORMAT.read_array_header_2_0
            shape, fortran, dtype = read(file)
        except (*_BROKEN, KeyError) as exc:
            self._refuse(f"{name!r} is no array: {exc}", "write it with numpy.savez", exc)
        if dtype.hasobject:
            self._refuse(f"{name!r} holds Python objects", "save numbers: pickles are not loaded")
        if fortran and len(shape) > 1:
            hint = "save numpy.ascontiguousarray(x)"
            self._refuse(f"{name!r} is stored column by column, so no row can be read alone", hint)
        return file, shape, dtype

    def _check(self, form: Input, shape: tuple[int, ...]) -> None:
        wanted = np.dtype(DTYPES[form.dtype])
        if self._row != form.shape or not np.can_cast(self._dtype, wanted, casting="same_kind"):
            rows = "x".join(map(str, ("N", *form.shape)))
            got = "x".join(map(str, shape))
            self._refuse(
                f"{self._x!r} is {self._dtype} {got}, expected {wanted} {rows}",
                "rows must fit [input] of the spec",
            )

    def _labels(self, classes: ClassNumbers, y: str | None) -> npt.NDArray[np.int64] | None:
        if y is None:
            if "y.npy" not in self._zip.namelist():
                return None
            y = "y"
        file, shape, dtype = self._opened(y)
        where = f"{self._path.name} {y}"
        if shape != (self._n,) or dtype.kind not in "iuU":
            self._refuse(
                f"{y!r} is {dtype} {list(shape)}, expected whole numbers or names [{self._n}]",
                "give one label a row",
            )
        try:
            values = np.frombuffer(file.read(), dtype=dtype)
        except _BROKEN as exc:
            self._refuse(f"{y!r} cannot be read: {exc}", "write it again", exc)
        if len(values) != self._n:
            self._refuse(f"{y!r} is cut short", "write it again")
        if dtype.kind == "U":
            numbers = [classes.of(str(v), f"{where}[{i}]") for i, v in enumerate(values)]
            return np.array(numbers, dtype=np.int64)
        wrong = np.flatnonzero((values < 0) | (values >= classes.n_classes))
        if len(wrong):
            more = f" ({len(wrong)} such labels)" if len(wrong) > 1 else ""
            classes.check(int(values[wrong[0]]), f"{where}[{wrong[0]}]{more}")
        return values.astype(np.int64)

    def _refuse(self, message: str, hint: str, cause: Exception | None = None) -> NoReturn:
        text = f"{self._path.name}: {message}"
        raise RecordsError(text, hint=hint) from cause
