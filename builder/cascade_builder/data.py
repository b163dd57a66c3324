"""Data sets to record: folders, CSV files and NPZ files, opened at once, read row by row.

    folder of files             unlabelled rows
    folder of folders           labelled: every folder is named after its class, by number or name
    folder with a labels.csv    that file
    CSV with path or file       labelled if it has a column `label`; other columns are left alone
    NPZ with x and perhaps y    rows as arrays, labelled by y

Files are pictures for an image cascade and ``.npy`` for a tensor cascade; texts are read by
``data_text``. Shapes: N rows.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cascade_router.errors import RecordsError

from .class_numbers import ClassNumbers
from .data_npz import ArrayData
from .data_text import text_data
from .rows import SUFFIXES
from .spec import Input

__all__ = ["DataSet", "FileData", "open_data"]

_LABELS = "labels.csv"
_KINDS = "give a folder, a CSV file with columns path,label, or an NPZ file with x and y"


class DataSet(Protocol):
    """Rows that can be read in order, again and again."""

    @property
    def kind(self) -> str:
        """What ``row`` gives: ``image`` or ``text`` for bytes of one, ``tensor`` for an array."""

    @property
    def digest(self) -> str:
        """``sha256:...`` that changes when rows or labels change (by size and time of files)."""

    @property
    def labels(self) -> npt.NDArray[np.int64] | None:
        """(N,) classes; None without labels."""

    @property
    def notes(self) -> Sequence[str]:
        """What its owner should know, such as files that were left alone."""

    @property
    def missing(self) -> Sequence[tuple[str, str]]:
        """Rows that were left out on opening: name and reason."""

    def __len__(self) -> int:
        """N."""

    def name(self, number: int) -> str:
        """Name a row in messages."""

    def row(self, number: int) -> Any:
        """Read a row.

        Raises:
            RecordsError: If it cannot be read; ``name`` is not part of the message.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FileData:
    """A ``DataSet`` of one file a row."""

    kind: str
    root: Path
    paths: tuple[Path, ...]
    digest: str
    labels: npt.NDArray[np.int64] | None
    notes: tuple[str, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    def name(self, number: int) -> str:
        """Give the path, short where it lies in the data set's folder."""
        path = self.paths[number]
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)

    def row(self, number: int) -> Any:
        """Read the file."""
        path = self.paths[number]
        try:
            if self.kind == "image":
                return path.read_bytes()
            return np.asarray(np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as exc:
            message = f"cannot be read: {exc}"
            raise RecordsError(message) from exc


def open_data(
    path: Path,
    form: Input,
    classes: ClassNumbers,
    *,
    images: Path | None = None,
    x: str = "x",
    y: str | None = None,
    unlabelled: bool = False,
    skip_missing: bool = False,
) -> DataSet:
    """Open a data set of any kind; no row is read yet.

    Args:
        path: Where it lies.
        form: Canonical input of the cascade.
        classes: Reads its labels.
        images: What the paths in a CSV file are relative to; None: its folder, or the folder
            ``images`` in there.
        x: Array of rows in an NPZ file.
        y: Array of labels in an NPZ file; None: ``y`` if it is there.
        unlabelled: Leave labels alone.
        skip_missing: Leave files out that a CSV file names and that are not there.

    Raises:
        RecordsError: If it is empty, not of a known kind, or its labels are no classes.
    """
    if not path.exists():
        message = f"{path}: there is no such file or folder"
        raise RecordsError(message, hint=_KINDS)
    suffix = path.suffix.lower()
    if form.kind == "text" and suffix != ".npz" and path.exists():
        return text_data(path, None if unlabelled else classes)
    if path.is_dir() and (path / _LABELS).is_file():
        path, suffix = path / _LABELS, ".csv"
    if path.is_dir():
        data: DataSet = _from_folder(path, form.kind, None if unlabelled else classes)
    elif suffix == ".csv":
        reader = _Csv(path, form.kind, None if unlabelled else classes, images)
        data = reader.data(skip_missing=skip_missing)
    elif suffix == ".npz":
        data = ArrayData(path, form, None if unlabelled else classes, x=x, y=y)
    else:
        message = f"{path}: {suffix or 'a file without a suffix'} is no kind of data set known here"
        raise RecordsError(message, hint=_KINDS)
    if not len(data):
        message = f"{path}: holds no rows ({_wanted(form.kind)})"
        raise RecordsError(message, hint=_KINDS)
    return data


def _from_folder(folder: Path, kind: str, classes: ClassNumbers | None) -> FileData:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    nested = {
        entry: [file for file in sorted(entry.rglob("*")) if file.is_file()]
        for entry in entries
        if entry.is_dir()
    }
    inside = [file for some in nested.values() for file in some]
    if _fit(files, kind) and _fit(inside, kind):
        message = f"{folder}: holds rows both directly and in folders"
        raise RecordsError(message, hint="give a flat folder, or one folder per class")
    everything = [*files, *inside]
    paths, labels = _fit(everything, kind), None
    if classes is not None and _fit(inside, kind):
        numbers = {
            entry: classes.of(entry.name, f"folder {entry.name!r}")
            for entry, some in nested.items()
            if _fit(some, kind)
        }
        labels = [
            number
            for entry, number in numbers.items()
            for _ in range(len(_fit(nested[entry], kind)))
        ]
    return _file_data(kind, folder, paths, labels, notes=_left_alone(everything, kind))


class _Csv:
    """Reads one CSV file."""

    def __init__(
        self, path: Path, kind: str, classes: ClassNumbers | None, images: Path | None
    ) -> None:
        self._path = path
        self._kind = kind
        self._classes = classes
        self._folders = [path.parent, path.parent / "images"] if images is None else [images]

    def data(self, *, skip_missing: bool) -> FileData:
        """Read all lines and look every file up."""
        paths, labels, missing = [], [], []
        for where, text, label in self._lines():
            found = self._found(text)
            if found is None:
                missing.append((where, f"the file {text!r} is missing"))
                continue
            paths.append(found)
            if label is not None:
                labels.append(label)
        if missing and not skip_missing:
            where, reason = missing[0]
            message = f"{where}: {reason}; {len(missing)} of {len(missing) + len(paths)} are"
            looked = " or ".join(str(folder) for folder in self._folders)
            hint = f"looked in {looked}; --images DIR says where, --skip-bad leaves them out"
            raise RecordsError(message, hint=hint)
        root = self._path.parent
        return _file_data(self._kind, root, paths, labels or None, missing=missing)

    def _lines(self) -> Iterable[tuple[str, str, int | None]]:
        """Give place, path and label of every line."""
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
                column = columns.get("path", columns.get("file"))
                if column is None:
                    message = f"{self._path.name}: got columns {list(columns)}, expected 'path'"
                    raise RecordsError(message, hint="the first line is path,label or file,label")
                label = None if self._classes is None else columns.get("label")
                for line in reader:
                    where = f"{self._path.name} line {reader.line_num}"
                    text = (line[column] or "").strip()
                    if not text:
                        message = f"{where}: names no file"
                        raise RecordsError(message, hint="every line is path,label")
                    number = None if label is None else self._label(line[label], where)
                    yield where, text, number
        except (OSError, UnicodeDecodeError, csv.Error) as exc:
            message = f"{self._path.name}: cannot be read: {exc}"
            raise RecordsError(message, hint="give a CSV file in UTF-8") from exc

    def _label(self, text: str | None, where: str) -> int:
        assert self._classes is not None
        if text is None or not text.strip():
            message = f"{where}: has no label, other lines may"
            raise RecordsError(message, hint="label every row, or pass --unlabelled")
        return self._classes.of(text.strip(), where)

    def _found(self, text: str) -> Path | None:
        for folder in self._folders:
            # Not Path.is_file: it raises where a name is too long.
            if os.path.isfile(folder / text):
                return folder / text
        return None


def _file_data(
    kind: str,
    root: Path,
    paths: Sequence[Path],
    labels: Sequence[int] | None,
    *,
    notes: Sequence[str] = (),
    missing: Sequence[tuple[str, str]] = (),
) -> FileData:
    digest = hashlib.sha256()
    for i, path in enumerate(paths):
        stat = path.stat()
        label = "" if labels is None else labels[i]
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{label}\n".encode())
    return FileData(
        kind=kind,
        root=root,
        paths=tuple(paths),
        digest=f"sha256:{digest.hexdigest()}",
        labels=None if labels is None else np.array(labels, dtype=np.int64),
        notes=tuple(notes),
        missing=tuple(missing),
    )


def _fit(files: Iterable[Path], kind: str) -> list[Path]:
    return [file for file in files if file.suffix.lower() in SUFFIXES[kind]]


def _left_alone(files: Iterable[Path], kind: str) -> list[str]:
    """Say which files were not taken for rows: a forgotten format should not go unseen."""
    counts = Counter(
        file.suffix.lower() or "no suffix"
        for file in files
        if file.suffix.lower() not in SUFFIXES[kind]
    )
    if not counts:
        return []
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in counts.most_common(5))
    return [f"{counts.total()} files were left alone ({kinds}); {_wanted(kind)}"]


def _wanted(kind: str) -> str:
    return f"rows are files ending in {', '.join(sorted(SUFFIXES[kind]))}"
