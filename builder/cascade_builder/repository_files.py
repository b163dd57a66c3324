"""Which files of a model folder are ours, whether they are as they should be, and writing them."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .layout import Model

__all__ = ["carry_over", "changed", "stage"]

_CONFIG = "config.pbtxt"
_OURS = {
    *("model.py", ".keep"),
    *("policy.json", "manifest.json", "golden.npz", "labels.txt", "tokenizer.json"),
}
"""In the version folder that is ours."""

_OUR_SUFFIXES = {".onnx", ".plan", ".pt2"}
"""What targets serve, whatever its name."""

_OUR_FOLDERS = {"cascade_router", "edition_configs", "experts", "__pycache__"}


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
        ours = "__pycache__" not in file.parts and _is_ours(file, model.version)
        if ours and str(file) not in model.files:
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


def carry_over(old: Path, new: Path, version: int) -> None:
    """Copy what else lies in a folder: other versions, a config for other machines."""
    for file in _files(old):
        target = new / file
        if not _is_ours(file, version) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old / file, target)


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """Name the files below a folder, relative to it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield PurePosixPath(path.relative_to(folder).as_posix())


def _is_ours(file: PurePosixPath, version: int) -> bool:
    match file.parts:
        case (name,):
            return name == _CONFIG
        case (folder, name) if folder == str(version):
            return name in _OURS or file.suffix in _OUR_SUFFIXES
        case (folder, inner, *_) if folder == str(version):
            return inner in _OUR_FOLDERS
    return False


def _same(path: Path, content: bytes | Path) -> bool:
    if isinstance(content, bytes):
        return path.stat().st_size == len(content) and path.read_bytes() == content
    if not content.is_file():
        return False
    have, want = path.stat(), content.stat()
    if have.st_size != want.st_size:
        return False
    return have.st_mtime_ns == want.st_mtime_ns or filecmp.cmp(path, content, shallow=False)
