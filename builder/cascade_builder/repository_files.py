"""Which files of a model folder are ours, whether they are as they should be, and writing them."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .layout import Model

__all__ = ["carry_over", "changed", "stage"]

_OURS = {
    "config.pbtxt",
    *("1/model.py", "1/.keep"),
    *("1/policy.json", "1/manifest.json", "1/labels.txt", "1/tokenizer.json"),
}
_OUR_SUFFIXES = {".onnx", ".plan", ".pt2"}
"""What targets serve, whatever its name."""

_OUR_FOLDERS = {"cascade_router", "experts", "__pycache__"}


def changed(root: Path, model: Model) -> str | None:
    """Say what of a folder differs from what it should be; None: nothing.

    Args:
        root: The model repository.
        model: What the folder should hold.
    """
    folder = root / model.name
    if not folder.is_dir():
        return "new"
    for name, content in model.files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if not _same(folder / name, content):
            return f"{name} changed"
    for file in _files(folder):
        # Triton's stub writes __pycache__; that is no change.
        if "__pycache__" not in file.parts and _is_ours(file) and str(file) not in model.files:
            return f"{file} is no longer needed"
    return None


def stage(folder: Path, model: Model) -> None:
    """Write a model's files into a new folder."""
    for name, content in model.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            # With its time, so that the next build sees at a glance that it is the same file.
            shutil.copy2(content, path)
        else:
            path.write_bytes(content)


def carry_over(old: Path, new: Path) -> None:
    """Copy what others put into a folder: another version, a config for other machines."""
    for file in _files(old):
        target = new / file
        if not _is_ours(file) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old / file, target)


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """Name the files below a folder, relative to it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield PurePosixPath(path.relative_to(folder).as_posix())


def _is_ours(file: PurePosixPath) -> bool:
    if str(file) in _OURS:
        return True
    in_version = len(file.parts) > 1 and file.parts[0] == "1"
    in_ours = in_version and len(file.parts) > 2 and file.parts[1] in _OUR_FOLDERS
    return in_ours or (in_version and len(file.parts) == 2 and file.suffix in _OUR_SUFFIXES)


def _same(path: Path, content: bytes | Path) -> bool:
    if isinstance(content, bytes):
        return path.stat().st_size == len(content) and path.read_bytes() == content
    if not content.is_file():
        return False
    have, want = path.stat(), content.stat()
    if have.st_size != want.st_size:
        return False
    return have.st_mtime_ns == want.st_mtime_ns or filecmp.cmp(path, content, shallow=False)
