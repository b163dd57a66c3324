"""Writes model folders so that nobody ever sees half of one, and no build stays half done.

Changed folders are written whole beside the repository; then a journal says which take their place,
and each does by renaming. A build killed before the journal has changed nothing; one killed after
it is completed by the next. In between a guard, the router's manifest, says that a build is
unfinished, so that no server starts a router beside experts it was not made for. Folders of others,
and files in our folders that we do not write, stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError
from cascade_router.policy import NAME

from .artifacts import json_of, written
from .layout import Model
from .repository_files import carry_over, stage

__all__ = ["Change", "add", "apply", "aside", "finish", "unfinished"]

_ASIDE = ".aside-"
"""What names of things put aside begin with; Triton takes no such folder for a version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is to become of a repository.

    Attributes:
        owner: The cascade; it names the journal.
        write: Folders to write, in this order.
        remove: Names of folders to remove.
        guard: A file of a folder that is written, and what it says while the change is under way;
            None: nothing.
    """

    owner: str
    write: Sequence[Model]
    remove: Sequence[str] = ()
    guard: tuple[str, bytes] | None = None


def apply(root: Path, change: Change, look: Callable[[Path], None] = lambda _: None) -> None:
    """Change a repository, all of it or nothing.

    Args:
        root: The model repository; made if missing.
        change: What is to become of it.
        look: Is given the folder that holds the new models, before any of them takes its place;
            what it raises leaves the repository as it was.

    Raises:
        BuildError: If the file system refuses; the repository is then as it was.
    """
    if not change.write and not change.remove:
        return
    journal = _journal(root, change.owner)
    staging: Path | None = None
    stuck = False
    try:
        root.mkdir(parents=True, exist_ok=True)
        staging = _staging(root)
        for model in change.write:
            stage(staging / model.name, model)
            carry_over(root / model.name, staging / model.name, model.version)
        look(staging)
        renaming = _Renaming(
            root=root,
            staging=staging,
            write=[model.name for model in change.write],
            remove=list(change.remove),
            guard=None if change.guard is None else (change.guard[0], change.guard[1].decode()),
        )
        written(journal, json.dumps(dataclasses.asdict(renaming), default=str).encode())
        renaming.all_or_nothing()
    except _StuckError as exc:
        stuck = True
        message = f"{root}: the repository could be neither changed nor put back: {exc}"
        raise BuildError(message, hint="check its rights, and build again to complete it") from exc
    except (OSError, shutil.Error) as exc:
        message = f"{root}: the repository cannot be written: {exc}"
        hint = "check free space and rights; the repository is as it was"
        raise BuildError(message, hint=hint) from exc
    finally:
        if not stuck:
            _clear(journal, staging)


def unfinished(root: Path, owner: str) -> bool:
    """Say whether a build of this cascade was killed while it changed the repository."""
    return _journal(root, owner).is_file()


def finish(root: Path, owner: str) -> bool:
    """Complete what a killed build of this cascade had begun, and remove what others left over.

    Call it while no other build uses the repository.

    Returns:
        Whether there was something to complete.

    Raises:
        BuildError: If the file system refuses.
    """
    journal = _journal(root, owner)
    renaming = _Renaming.read(root, json_of(journal))
    try:
        if renaming is not None:
            renaming.complete()
        _clear(journal, None if renaming is None else renaming.staging)
        for draft in root.glob(f".{journal.name}-*"):
            draft.unlink()
        for away in root.glob(f"{owner}_*/{_ASIDE}*"):
            _bring_back(away)
        if not any(root.glob(".*.journal")):
            for left in _left_over(root):
                shutil.rmtree(left, ignore_errors=True)
    except OSError as exc:
        message = f"{root}: an interrupted build cannot be completed: {exc}"
        raise BuildError(message, hint="check free space and rights, and build again") from exc
    return renaming is not None


def add(root: Path, models: Sequence[Model]) -> None:
    """Lay versions beside those that are there; nothing that is there changes.

    Each appears whole. Of a model that is there only the version folder is taken.

    Args:
        root: The model repository.
        models: Folders, each with one version that is not there yet.

    Raises:
        BuildError: If the file system refuses; what was added before stays.
    """
    staging: Path | None = None
    try:
        staging = _staging(root)
        for model in models:
            stage(staging / model.name, model)
            inside = (model.name,) if not (root / model.name).is_dir() else _version(model)
            staging.joinpath(*inside).rename(root.joinpath(*inside))
    except (OSError, shutil.Error) as exc:
        message = f"{root}: the repository cannot be written: {exc}"
        raise BuildError(message, hint="check free space and rights") from exc
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def aside(*paths: Path) -> Iterator[None]:
    """Take files or folders of models aside; what lies in their place in the end is removed.

    ``finish`` brings back what a killed process could not.
    """
    try:
        for path in paths:
            path.rename(path.with_name(f"{_ASIDE}{path.name}"))
        yield
    finally:
        for path in paths:
            _bring_back(path.with_name(f"{_ASIDE}{path.name}"))


def _bring_back(away: Path) -> None:
    if not away.exists():
        return
    place = away.with_name(away.name.removeprefix(_ASIDE))
    if away.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    away.replace(place)


def _version(model: Model) -> tuple[str, str]:
    return model.name, str(model.version)


class _StuckError(Exception):
    """Something was renamed and could not be renamed back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Renaming:
    """Folders that wait in ``staging`` to take their place; what is still there is still to do.

    Attributes:
        root: The model repository.
        staging: Holds the new folders, then the old ones as ``NAME.old``.
        write: Names of folders to put in place.
        remove: Names of folders to take away.
        guard: A file below ``root``, and what it says in between.
    """

    root: Path
    staging: Path
    write: list[str]
    remove: list[str]
    guard: tuple[str, str] | None

    @classmethod
    def read(cls, root: Path, values: Mapping[str, Any]) -> _Renaming | None:
        """Read a journal; None if there is none, or nothing waits for it any more."""
        if set(values) != {field.name for field in dataclasses.fields(cls)}:
            return None
        staging = Path(str(values["staging"]))
        names = [*values["write"], *values["remove"]]
        # It is read from a file, so it may name folders of this repository and nothing else.
        ours = all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
        if not (ours and staging.name.startswith(_prefix(root)) and staging.is_dir()):
            return None
        return cls(**{**values, "root": root, "staging": staging})

    def all_or_nothing(self) -> None:
        """Rename all, or put back what was renamed and raise.

        Raises:
            _StuckError: If it cannot be put back.
        """
        before = self._raise_guard()
        done: list[str] = []
        try:
            for name in [*self.write, *self.remove]:
                done.append(name)
                self._rename(name)
        except BaseException:
            try:
                for name in reversed(done):
                    self._put_back(name)
            except OSError as exc:
                raise _StuckError(str(exc)) from exc
            if self.guard is not None and before is not None:
                written(self.root / self.guard[0], before)
            raise

    def complete(self) -> None:
        """Rename what an interrupted run left to do."""
        self._raise_guard()
        for name in [*self.write, *self.remove]:
            self._rename(name)

    def _raise_guard(self) -> bytes | None:
        """Write the guard; give what stood there, None if nothing did."""
        if self.guard is None:
            return None
        name, text = self.guard
        path = self.root / name
        waits = (self.staging / Path(name).parts[0]).is_dir()
        if not (waits and path.is_file()):
            return None
        before = path.read_bytes()
        written(path, text.encode())
        return before

    def _rename(self, name: str) -> None:
        new, old, place = self.staging / name, self.staging / f"{name}.old", self.root / name
        if not (new.is_dir() or name in self.remove):
            return  # it is in its place
        if place.is_dir():
            place.rename(old)
        if name not in self.remove:
            new.rename(place)

    def _put_back(self, name: str) -> None:
        new, old, place = self.staging / name, self.staging / f"{name}.old", self.root / name
        if name not in self.remove and not new.is_dir():
            place.rename(new)
        if old.is_dir():
            old.rename(place)


def _journal(root: Path, owner: str) -> Path:
    """Name the journal: a file, as Triton takes every folder of a repository for a model."""
    return root / f".{owner}.journal"


def _clear(journal: Path, staging: Path | None) -> None:
    """Forget a change, then what it left: in this order nothing that is needed is ever missing."""
    if journal.is_file():  # asked first: nothing is unlinked in a folder that is read-only
        journal.unlink()
    if staging is not None:
        shutil.rmtree(staging, ignore_errors=True)


def _prefix(root: Path) -> str:
    return f".{root.resolve().name}.building-"


def _staging(root: Path) -> Path:
    """Make a folder on the same file system, outside the repository where that is possible."""
    beside = root.resolve().parent
    same_device = beside.stat().st_dev == root.stat().st_dev
    try:
        folder = tempfile.mkdtemp(prefix=_prefix(root), dir=beside if same_device else root)
    except OSError:  # the folder around a mounted repository may be read-only
        folder = tempfile.mkdtemp(prefix=_prefix(root), dir=root.resolve())
    return Path(folder)


def _left_over(root: Path) -> list[Path]:
    """Name folders that killed builds had not written to the end."""
    prefix = _prefix(root)
    places = (root.resolve().parent, root)
    return [one for place in places for one in place.iterdir() if one.name.startswith(prefix)]
