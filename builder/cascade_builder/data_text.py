"""Rows of text to record: one a line, or one a line of a CSV file.

    TXT                         unlabelled, one row a line
    folder of TXT               the same, file after file
    folder of folders of TXT    labelled: every folder is named after its class
    CSV with text               labelled if it has a column `label`; other columns are left alone

Empty lines of a TXT file are no rows. Shapes: N rows.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cascade_router.errors import RecordsError

from .class_numbers import ClassNumbers

__all__ = ["TextData", "lines_of", "text_data"]

_SUFFIX = ".txt"
_LABELS = "labels.csv"
_KINDS = "give a TXT file with a text a line, a folder of them, or a CSV file with text,label"

Line = tuple[str, bytes, int | None]
"""Name, text and label of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextData:
    """A ``data.DataSet`` of texts, which are small enough to be held."""

    names: tuple[str, ...]
    texts: tuple[bytes, ...]
    labels: npt.NDArray[np.int64] | None
    digest: str
    kind: str = "text"
    notes: Sequence[str] = ()
    missing: Sequence[tuple[str, str]] = ()

    def __len__(self) -> int:
        """N."""
        return len(self.texts)

    def name(self, number: int) -> str:
        """Give file and line."""
        return self.names[number]

    def row(self, number: int) -> bytes:
        """Give the text as it lies in the file; it may be no UTF-8."""
        return self.texts[number]


def text_data(path: Path, classes: ClassNumbers | None) -> TextData:
    """Read texts.

    Args:
        path: Where they lie.
        classes: Reads their labels; None: leave labels alone.

    Raises:
        RecordsError: If it cannot be read, holds no rows, or rows of a CSV lack a label.
    """
    table = path / _LABELS if (path / _LABELS).is_file() else path
    if table.suffix.lower() == ".csv" and table.is_file():
        rows = list(_from_csv(table, classes))
    elif path.is_dir():
        rows = list(_from_folder(path, classes))
    elif path.suffix.lower() == _SUFFIX:
        rows = [(name, text, None) for name, text in lines_of(path)]
    else:
        message = f"{path}: {path.suffix or 'a file without a suffix'} holds no texts known here"
        raise RecordsError(message, hint=_KINDS)
    if not rows:
        message = f"{path}: holds no rows"
        raise RecordsError(message, hint=_KINDS)
    digest = hashlib.sha256()
    for name, text, label in rows:
        digest.update(f"{name}\0{len(text)}\0{label}\0".encode())
        digest.update(text)
    labels = [label for _, _, label in rows if label is not None]
    return TextData(
        names=tuple(name for name, _, _ in rows),
        texts=tuple(text for _, text, _ in rows),
        labels=np.array(labels, dtype=np.int64) if labels else None,
        digest=f"sha256:{digest.hexdigest()}",
    )


def lines_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Give name and text of every line that is not empty.

    Raises:
        RecordsError: If the file cannot be read.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except OSError as exc:
        message = f"{path}: cannot be read: {exc}"
        raise RecordsError(message, hint=_KINDS) from exc
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path.name} line {number}", line


def _from_folder(folder: Path, classes: ClassNumbers | None) -> Iterator[Line]:
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.suffix.lower() == _SUFFIX and entry.is_file()]
    nested = {
        entry: sorted(file for file in entry.rglob(f"*{_SUFFIX}") if file.is_file())
        for entry in entries
        if entry.is_dir()
    }
    if files and any(nested.values()):
        message = f"{folder}: holds texts both directly and in folders"
        raise RecordsError(message, hint="give a flat folder, or one folder per class")
    for file in files:
        yield from ((name, text, None) for name, text in lines_of(file))
    for entry, some in nested.items():
        label = classes.of(entry.name, f"folder {entry.name!r}") if some and classes else None
        for file in some:
            yield from ((f"{entry.name}/{name}", text, label) for name, text in lines_of(file))


def _from_csv(path: Path, classes: ClassNumbers | None) -> Iterator[Line]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = {name.strip().lower(): name for name in reader.fieldnames or ()}
            if "text" not in columns:
                message = f"{path.name}: got columns {list(columns)}, expected 'text'"
                raise RecordsError(message, hint="the first line is text,label or text")
            column = None if classes is None else columns.get("label")
            for line in reader:
                where = f"{path.name} line {reader.line_num}"
                label = None
                if classes is not None and column is not None:
                    label = _label(line[column], classes, where)
                yield where, (line[columns["text"]] or "").encode(), label
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        message = f"{path.name}: cannot be read: {exc}"
        raise RecordsError(message, hint="give a CSV file in UTF-8") from exc


def _label(text: str | None, classes: ClassNumbers, where: str) -> int:
    if text is None or not text.strip():
        message = f"{where}: has no label, other lines may"
        raise RecordsError(message, hint="label every row, or pass --unlabelled")
    return classes.of(text.strip(), where)
