"""What is to be done for each expert of a spec, and why.

Nothing of an expert is run, read or imported if nothing changed: its files are recognised by size
and time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cascade_router.errors import BuildError, CascadeError, SpecError

from . import targets
from .artifacts import Task, built_from, dump, json_of, key_of, whole, written
from .digests import Digests, stamp
from .manifest import file_digest
from .sources import ServedSource
from .sources.remote import why_not
from .sources.served import look
from .sources.source import digest_of_many, files_below
from .spec import Expert, Spec

__all__ = ["Tasks"]

T = TypeVar("T")

_HERE = Path(__file__).parent
_GRAPH_CODE = {
    "module": ["export.py"],
    "onnx": ["export.py", "sources/onnx_graph.py", "sources/onnx_pixels.py"],
}
"""Code that makes a graph, by what the source gives."""

_FROM_ROWS = ("int8", "fp8")
"""Precisions whose ranges come from real rows."""


class Tasks:
    """Says the tasks of one cascade.

    Args:
        folder: Keeps the built experts of this cascade.
        spec: The cascade.
        target: What runs the experts, never ``auto``.
        repository: The model repository, which may hold served models.
    """

    def __init__(self, folder: Path, spec: Spec, target: str, repository: Path) -> None:
        self._folder = folder
        self._target = target
        self._spec = spec
        self._repository = repository
        self._state = folder / "state.json"
        before = json_of(self._state)
        self._before = _table(before.get("experts"))
        self._digests = Digests(_table(before.get("digests")))
        self._now: dict[str, Any] = {}

    def of(self, expert: Expert) -> Task:
        """Say whether an expert must be built, and why.

        Raises:
            SpecError: If its code or a file is missing, or a file is not the one demanded.
            BuildError: If a package is missing, its files cannot be read, or a served model cannot
                be found.
        """
        where = f"expert {expert.name!r}"
        try:
            if isinstance(expert.source, ServedSource):
                return self._served(expert, expert.source, where)
            return self._made(expert, where)
        except OSError as exc:
            message = f"{where}: its files cannot be read: {exc}"
            hint = "check its rights, or install the package that carries it"
            raise BuildError(message, hint=hint) from exc

    def remember(self) -> None:
        """Write down what was found out, so that the next build is quick."""
        state = dump({"experts": self._now, "digests": self._digests.used})
        if not self._state.is_file() or self._state.read_bytes() != state:
            written(self._state, state)

    def _made(self, expert: Expert, where: str) -> Task:
        source, spec = expert.source, self._spec
        before = _table(self._before.get(expert.name))
        asked = _as_read(
            {
                "source": _named(where, source.said),
                "code": _named(where, source.code),
                "sha256": source.sha256,
                "at": repr(source),  # a copied folder has files of its own
                "folder": _listing(source),
            }
        )
        files = self._files(expert, asked, before, where)
        weights = [{"name": path.name, "digest": self._digests.of(path)} for path in files]
        graph = {
            "source": asked["source"],
            "code": asked["code"],
            "weights": [one["digest"] for one in weights],
            "input": spec.input.described,
            "classes": spec.classes,
            "exporter": [file_digest(_HERE / name) for name in _GRAPH_CODE.get(source.gives, [])],
        }
        toolchain = self._toolchain(expert)
        contents = _as_read(
            {
                **graph,
                "precision": expert.precision,
                "toolchain": toolchain,
                **self._options(expert),
            }
        )
        self._now[expert.name] = {
            "asked": asked,
            "files": [str(path.absolute()) for path in files],
            "contents": contents,
        }
        task = self._task(expert, contents, before)
        folder = self._folder / "graphs" / f"{expert.name}-{key_of(graph)}"
        return _completed(
            dataclasses.replace(
                task,
                graph=None if source.gives == "engine" else folder,
                weights=weights,
                weights_bytes=sum(path.stat().st_size for path in files),
                toolchain={**asked["code"], **toolchain},
            )
        )

    def _served(self, expert: Expert, source: ServedSource, where: str) -> Task:
        """Look at a model that Triton serves: nothing is built, but its answers are checked."""
        model = look(source, self._spec, self._repository, where, self._digests.of)
        contents = {"source": source.said(), "served": model.digest}
        before = _table(self._before.get(expert.name))
        self._now[expert.name] = {"contents": contents}
        task = self._task(expert, contents, before)
        task = _completed(dataclasses.replace(task, served=model))
        unseen = task.built is not None and "unverified" in task.built.figures
        if unseen and why_not(model, source.server) is None:
            return dataclasses.replace(task, built=None, reason="its server answers now")
        return task

    def _task(self, expert: Expert, contents: Mapping[str, Any], before: Mapping[str, Any]) -> Task:
        key = key_of(contents)
        folder = self._folder / "experts" / f"{expert.name}-{key}"
        values, reason = whole(folder)
        if values is None and reason == "not built yet":
            reason = _difference(_table(before.get("contents")), contents)
        return Task(expert=expert, key=key, folder=folder, reason=reason, note=values)

    def _files(
        self, expert: Expert, asked: Mapping[str, Any], before: Mapping[str, Any], where: str
    ) -> list[Path]:
        """Name the files an expert depends on; its code is asked only if something changed."""
        known = [Path(name) for name in before.get("files", [])]
        if before.get("asked") == asked and all(map(self._digests.untouched, known)):
            return known
        source = expert.source
        files = _named(where, source.files)
        if source.sha256 is not None:
            self._check_digest(source.sha256, _named(where, lambda: source.pinned), where)
        return files

    def _check_digest(self, wanted: str, pinned: Path | None, where: str) -> None:
        """Refuse files that are not those the spec demands."""
        if pinned is None:
            message = f"{where}: sha256 is given, but no file that it is about"
            raise SpecError(message, hint="name the file with `weights`, or leave sha256 out")
        folder = pinned if pinned.is_dir() else pinned.parent
        got = digest_of_many(
            {str(one.relative_to(folder)): self._digests.of(one) for one in files_below(pinned)}
        )
        if got != wanted:
            message = f"{where}: {pinned.name} is {got}, the spec demands {wanted}"
            raise SpecError(message, hint="fetch the right file, or correct sha256")

    def _toolchain(self, expert: Expert) -> dict[str, str]:
        """Say what a conversion depends on; a ready engine is only copied."""
        if expert.source.gives == "engine":
            return {}
        return targets.toolchain(expert, self._spec, self._target)

    def _options(self, expert: Expert) -> dict[str, Any]:
        """Say which parts of the spec a conversion depends on beside the expert's own."""
        if expert.source.gives == "engine":
            return {"target": self._target}
        out: dict[str, Any] = {"target": targets.main_file(self._target)}
        if self._target.startswith("tensorrt"):
            options = dataclasses.asdict(self._spec.engine)
            out |= {"max_batch": self._spec.max_batch, "tensorrt": options}
        if self._target == "torch":
            options = dataclasses.asdict(self._spec.program)
            out |= {"max_batch": self._spec.max_batch, "torch": options}
        if expert.precision in _FROM_ROWS:
            out["rows"] = self._rows()
        return out

    def _rows(self) -> list[Any]:
        """Identify the real rows without reading them: by their files, or by their factory's."""
        rows = self._spec.rows
        if rows.folder is not None:
            files = sorted(one for one in rows.folder.iterdir() if one.is_file())
            return [[one.name, *stamp(one).values()] for one in files]
        assert rows.factory is not None
        return [str(rows.factory), file_digest(rows.factory.source())]


def _completed(task: Task) -> Task:
    """Add what is built, now that all else is known."""
    if task.note is None:
        return task
    return dataclasses.replace(task, built=built_from(task, task.note))


def _named(where: str, ask: Callable[[], T]) -> T:
    """Ask a source; its errors get the name of the expert."""
    try:
        return ask()
    except CascadeError as exc:
        message = f"{where}: {exc.message}"
        raise type(exc)(message, hint=exc.hint) from exc


def _listing(source: Any) -> list[str]:
    """Name the files of a folder of weights, so that a new one is noticed."""
    folder: Path | None = getattr(source, "weights", None)
    if folder is None or not folder.is_dir():
        return []
    return [str(one.relative_to(folder)) for one in files_below(folder)]


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what changed since the last key; of a table, which of its keys."""
    if not before:
        return "not built yet"
    names: list[str] = []
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            names += [key for key in {**old, **new} if old.get(key) != new.get(key)]
        else:
            names.append(name)
    return f"{', '.join(dict.fromkeys(names))} changed" if names else "not built yet"


def _as_read(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give values as they come back from a file, where tuples are lists."""
    return _table(json.loads(dump(values)))


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
