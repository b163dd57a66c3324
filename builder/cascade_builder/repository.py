"""Writes model folders so that Triton never sees half of one.

A changed folder is written whole beside the repository, then takes the old one's place by renaming.
Folders of others, and files in our folders that we do not write, stay.
"""

from __future__ import annotations

import contextlib
import filecmp
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from cascade_router.errors import BuildError

from .layout import Model

__all__ = ["changed", "write"]

_OURS = {
    "config.pbtxt",
    *("1/model.py", "1/model.onnx", "1/.keep"),
    *("1/policy.json", "1/manifest.json", "1/labels.txt"),
}
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


def write(root: Path, models: Sequence[Model], remove: Sequence[str] = ()) -> None:
    """Write folders, then remove some.

    Args:
        root: The model repository; made if missing.
        models: Folders to write, in this order.
        remove: Names of folders to remove.

    Raises:
        BuildError: If the file system refuses; a folder is then old or new, never half of each.
    """
    if not models and not remove:
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _staging(root) as staging:
            for model in models:
                _stage(staging / model.name, model)
                _carry_over(root / model.name, staging / model.name)
            for model in models:
                _swap(staging / model.name, root / model.name)
            for name in remove:
                (root / name).rename(staging / f"{name}.removed")
    except (OSError, shutil.Error) as exc:
        message = f"{root}: the repository cannot be written: {exc}"
        hint = "check free space and rights; what was not renamed yet is as it was"
        raise BuildError(message, hint=hint) from exc


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """Make a folder on the same file system, outside the repository where that is possible.

    Triton takes every folder of a repository for a model.
    """
    beside = root.resolve().parent
    same_device = beside.stat().st_dev == root.stat().st_dev
    prefix = f".{root.name}.building-"
    try:
        folder = tempfile.mkdtemp(prefix=prefix, dir=beside if same_device else root)
    except PermissionError:
        folder = tempfile.mkdtemp(prefix=prefix, dir=root)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stage(folder: Path, model: Model) -> None:
    for name, content in model.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            # With its time, so that the next build sees at a glance that it is the same file.
            shutil.copy2(content, path)
        else:
            path.write_bytes(content)


def _carry_over(old: Path, new: Path) -> None:
    """Copy what others put into a folder: another version, a config for other machines."""
    for file in _files(old):
        target = new / file
        if not _is_ours(file) and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old / file, target)


def _swap(new: Path, place: Path) -> None:
    """Put a folder in its place; the one that was there ends up in the staging folder."""
    old = new.with_name(f"{new.name}.old")
    if place.exists():
        place.rename(old)
    try:
        new.rename(place)
    except OSError:
        if old.exists():
            old.rename(place)
        raise


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """Name the files below a folder, relative to it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield PurePosixPath(path.relative_to(folder).as_posix())


def _is_ours(file: PurePosixPath) -> bool:
    in_ours = len(file.parts) > 2 and file.parts[0] == "1" and file.parts[1] in _OUR_FOLDERS
    return str(file) in _OURS or in_ours


def _same(path: Path, content: bytes | Path) -> bool:
    if isinstance(content, bytes):
        return path.stat().st_size == len(content) and path.read_bytes() == content
    if not content.is_file():
        return False
    have, want = path.stat(), content.stat()
    if have.st_size != want.st_size:
        return False
    return have.st_mtime_ns == want.st_mtime_ns or filecmp.cmp(path, content, shallow=False)
