"""Makes one expert: its graph, what the target serves of it, and the figures that prove it.

Nothing is kept of an expert that fails. Its graph is kept as soon as it is right, so that an
interrupted conversion exports nothing again.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError

from . import targets
from .artifacts import Task, new, record, whole
from .sources import EngineSource, OnnxSource, ServedSource
from .spec import Spec
from .targets.job import Runner

if TYPE_CHECKING:
    from torch import nn

__all__ = ["as_it_came", "make"]

Tell = Callable[[str], None]


def make(task: Task, spec: Spec, target: str, rows: npt.NDArray[Any], tell: Tell) -> None:
    """Make an expert and keep it in ``task.folder``.

    Args:
        task: What is to be made.
        spec: Its cascade.
        target: What runs it, never ``auto``.
        rows: (N, ...) canonical real rows.
        tell: Takes a sentence on what is being done.

    Raises:
        SpecError: If it names code that is not there.
        BuildError: If it cannot be made or does not answer as it should.
    """
    work = _Making(task, spec, target, rows, tell)
    try:
        match task.expert.source:
            case ServedSource() as source:
                work.served(source)
            case EngineSource() as source:
                work.engine(source)
            case _:
                work.converted()
    except OSError as exc:
        _cannot_write(work.where, exc)


class _Making:
    """One expert being made."""

    def __init__(
        self, task: Task, spec: Spec, target: str, rows: npt.NDArray[Any], tell: Tell
    ) -> None:
        self.where = f"expert {task.expert.name!r}"
        self._task = task
        self._spec = spec
        self._target = target
        self._rows = rows
        self._tell = tell
        self._module: nn.Module | None = None

    def converted(self) -> None:
        """Make the graph, if it is not there, and what the target serves of it."""
        graph, expert = self._task.graph, self._task.expert
        assert graph is not None
        note, _ = whole(graph)
        figures = self._graph(graph) if note is None else note["figures"]
        if self._target == "torch" and expert.source.gives == "module":
            self._module = self._made_module()
        with new(self._task.folder) as folder:
            found = targets.convert(
                graph / "model.onnx",
                expert,
                self._spec,
                self._target,
                self._rows,
                folder,
                self._tell,
                module=self._module,
            )
            step = "torch_to_onnx" if expert.source.gives == "module" else "file_to_onnx"
            record(folder, found.files, {step: figures, **found.figures})

    def engine(self, source: EngineSource) -> None:
        """Copy a ready engine, and check its answers where it runs."""
        expert, name = self._task.expert, targets.main_file(self._target)
        with new(self._task.folder) as folder:
            shutil.copyfile(source.path, folder / name)
            try:
                run = targets.runner({name: folder / name}, expert, self._target)
                problem = None if run else targets.unreadable(folder / name, self._target)
            except BuildError as exc:
                run, problem = None, exc.message
            if problem is not None:
                message = f"{self.where}: {source.path.name} cannot be run: {_line(problem)}"
                hint = f"give an engine made for target {self._target} on this machine"
                raise BuildError(message, hint=hint)
            figures = self._answers(run, targets.why_not(self._target))
            record(folder, [name], figures)

    def served(self, source: ServedSource) -> None:
        """Check the answers of a served model where it can be asked."""
        from .sources.remote import remote_runner, why_not

        model = self._task.served
        assert model is not None
        why = why_not(model, source.server)
        run = remote_runner(model, source.server, self._spec.input.dtype) if why is None else None
        with new(self._task.folder) as folder:
            record(folder, [], self._answers(run, why))

    def _graph(self, folder: Path) -> dict[str, Any]:
        """Make the graph and say what was verified of it."""
        with new(folder) as draft:
            path = draft / "model.onnx"
            source = self._task.expert.source
            if isinstance(source, OnnxSource):
                figures = self._foreign_graph(source, path)
            else:
                figures = self._exported_graph(path)
            record(draft, [path.name], figures)
        return figures

    def _exported_graph(self, path: Path) -> dict[str, Any]:
        from . import export, parity
        from .runtime import OnnxExpert

        spec = self._spec
        self._tell("exporting")
        self._module = self._made_module()
        data = export.onnx_from_torch(
            self._module, self._rows, form=spec.input, classes=spec.classes, where=self.where
        )
        path.write_bytes(data)
        found = parity.check(self._module, OnnxExpert(path), self._rows, where=self.where)
        return found.as_json()

    def _foreign_graph(self, source: OnnxSource, path: Path) -> dict[str, Any]:
        from .runtime import OnnxExpert
        from .sources.answers import check_same
        from .sources.onnx_graph import graph_from_file

        spec = self._spec
        self._tell("reading the graph")
        path.write_bytes(graph_from_file(source, spec.input, spec.classes, self.where))
        try:
            run = OnnxExpert(path)
        except BuildError as exc:
            message = f"{self.where}: {source.path.name}: {_line(exc.message)}"
            hint = "it may use operators that ONNX Runtime lacks: export it again without them"
            raise BuildError(message, hint=hint) from exc
        figures = self._answers(run, None)
        if source.pixels is None:  # else the file takes no canonical rows
            figures["difference_to_file"] = check_same(
                run, as_it_came(source), self._rows, where=self.where
            )
        return figures

    def _made_module(self) -> nn.Module:
        from . import export

        return self._module or export.make(self._task.expert, self._spec.input)

    def _answers(self, run: Any, why_not: str | None) -> dict[str, Any]:
        """Check answers that can be compared with nothing; say why where they cannot be had."""
        from .sources.answers import check_answers

        if run is None:
            return {"unverified": why_not or "it cannot run here"}
        self._tell("checking its answers")
        return check_answers(
            run,
            self._rows,
            classes=self._spec.classes,
            max_batch=self._spec.max_batch,
            where=self.where,
        )


def as_it_came(source: OnnxSource) -> Runner:
    """Open a foreign ONNX file under its own names: canonical rows to logits.

    Raises:
        BuildError: If ONNX Runtime cannot load it.
    """
    from cascade_router.onnx_expert import session

    try:
        opened = session(str(source.path), 1)
    except Exception as exc:  # its error classes share no base but Exception
        message = f"{source.path.name}: ONNX Runtime cannot load it: {_line(str(exc))}"
        raise BuildError(message, hint="export it again") from exc
    name = opened.get_inputs()[0].name
    output = source.output or opened.get_outputs()[0].name

    def run(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        answer: npt.NDArray[np.float32] = opened.run([output], {name: rows})[0]
        return answer

    return run


def _line(text: str) -> str:
    """Cut a foreign message to a few lines' worth."""
    return " ".join(text.split())[:400]


def _cannot_write(where: str, exc: OSError) -> NoReturn:
    message = f"{where}: cannot be written: {exc}"
    hint = "check free space and rights of the build folder"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room there, or keep built experts elsewhere with --artifacts"
    raise BuildError(message, hint=hint) from exc
