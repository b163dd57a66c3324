"""The forms of one expert, in the order of its making, each as a function of rows where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_builder import targets
from cascade_builder.artifacts import whole
from cascade_builder.manifest import file_digest
from cascade_builder.runtime import OUTPUT, OnnxExpert
from cascade_builder.served import Served
from cascade_builder.sources import OnnxSource
from cascade_builder.sources.remote import remote_runner
from cascade_builder.sources.served import ServedModel
from cascade_builder.spec import Expert, Spec
from cascade_builder.targets.job import Runner
from cascade_builder.tasks import Tasks
from cascade_router.errors import CascadeError
from cascade_router.versions import folder_in_force

from .server import Asked

__all__ = ["Form", "local_forms", "served_form"]

_EXPORT = "look for random, training-only or half-precision operators; then build again"
_FOREIGN = "build again; if it stays, report it with the file's operators"
_CONVERT = "build again; if it stays, take a wider precision, or give more typical [rows]"
_SERVE = (
    "the server holds another file, or other versions of the libraries that run it: load the "
    "model again, or start the server anew"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Something that answers rows as an expert.

    Attributes:
        name: What to call it.
        run: (n, ...) canonical rows to (n, C) logits; None: it cannot run here, or need not.
        why: Why it cannot.
        hint: What to try if it answers otherwise than the form before it.
        graph: Its ONNX file, if it is one.
        first: It was made of nothing that could be asked, so only it itself can be checked.
        exact: It must answer as the form before it up to the order of sums.
        lowered: It computes in the expert's precision.
        same_as: Form whose file it is, byte for byte.
        aside: Nothing is made of it.
    """

    name: str
    run: Runner | None = None
    why: str | None = None
    hint: str = "build again"
    graph: Path | None = None
    first: bool = False
    exact: bool = False
    lowered: bool = False
    same_as: str | None = None
    aside: bool = False


def local_forms(
    served: Served,
    spec: Spec,
    repository: Path,
    tasks: Tasks,
    server: Asked,
    tell: Callable[[str], None],
) -> list[Form]:
    """Open the forms of an expert that need no model of the cascade.

    Args:
        served: The expert in the repository.
        spec: Its cascade.
        repository: The model repository.
        tasks: Knows where builds keep its graph.
        server: Asked for a model that was served already, where it holds it.
        tell: Takes progress.

    Returns:
        One form at least.
    """
    if served.beneath is not None:
        return [_beneath(served, served.beneath, spec, server)]
    source = served.expert.source
    if source.gives == "engine":
        file = _file(served, None)
        return [file, *_beside_router(served, spec, repository, file)]
    forms = []
    if source.gives == "module":
        tell(f"{served.expert.name}: making the module")
        forms.append(_module(served.expert, spec))
    elif isinstance(source, OnnxSource) and source.pixels is None:
        forms.append(_as_it_came(source))
    graph = _graph(served, tasks, first=not forms)
    file = _file(served, graph)
    return [*forms, graph, file, *_beside_router(served, spec, repository, file)]


def served_form(served: Served, spec: Spec, server: Asked) -> Form:
    """Ask the server for the model that runs an expert."""
    name = f"model {served.model}"
    if server.url is None:
        return Form(name=name, why=server.said)
    problem = server.problem(served.model)
    if problem is not None:
        return Form(name=name, run=_failing(problem), lowered=True)
    model = ServedModel(
        name=served.model,
        input=spec.input.name,
        output=OUTPUT,
        digest=served.digest,
        seen="server",
        max_batch=spec.max_batch,
    )
    run = remote_runner(model, server.url, spec.input.dtype)
    return Form(name=name, run=run, hint=_SERVE, lowered=True)


def _beneath(served: Served, model: ServedModel, spec: Spec, server: Asked) -> Form:
    """Ask for a model that was served already, under its own names."""
    name = f"model {model.name}"
    if model.seen == "repository" and server.url is not None:
        problem = server.problem(model.name)
        if problem is not None:
            return Form(name=name, run=_failing(problem), first=True)
        run = remote_runner(model, server.url, spec.input.dtype)
        return Form(name=name, run=run, first=True, lowered=True)
    from cascade_builder.served import open_expert

    try:
        return Form(name=name, run=open_expert(served, spec), first=True, lowered=True)
    except CascadeError as exc:
        return Form(name=name, why=exc.message, first=True)


def _module(expert: Expert, spec: Spec) -> Form:
    from cascade_builder import export

    try:
        module = export.make(expert, spec.input)
    except CascadeError as exc:
        return Form(name="torch", why=exc.message)

    def run(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = module(torch.from_numpy(rows)).numpy()
        return logits

    return Form(name="torch", run=run)


def _as_it_came(source: OnnxSource) -> Form:
    from cascade_builder.making import as_it_came

    name = f"given {source.path.name}"  # it may be called as what is served
    try:
        return Form(name=name, run=as_it_came(source), graph=source.path)
    except CascadeError as exc:
        return Form(name=name, why=exc.message)


def _graph(served: Served, tasks: Tasks, *, first: bool) -> Form:
    """Open the graph that a build keeps, or the file that is it."""
    path, why = _kept_graph(served.expert, tasks)
    if path is None and _is_copied(served):
        path = next(iter(served.files.values()))
    if path is None:
        return Form(name="ONNX", why=why, first=first)
    hint = _FOREIGN if served.expert.source.gives == "onnx" else _EXPORT
    run = _opened(lambda: OnnxExpert(path, served.expert.threads))
    return Form(name="ONNX", run=run, hint=hint, graph=path, first=first, exact=True)


def _kept_graph(expert: Expert, tasks: Tasks) -> tuple[Path | None, str]:
    try:
        folder = tasks.of(expert).graph
    except CascadeError as exc:
        return None, exc.message
    assert folder is not None
    note, reason = whole(folder)
    if note is None:
        return None, f"its graph is not in {folder.parent.parent}: {reason}; build again"
    return folder / "model.onnx", reason


def _is_copied(served: Served) -> bool:
    """Say whether what is served is the graph itself."""
    onnx = next(iter(served.files), "").endswith(".onnx")
    return onnx and served.expert.precision == "fp32"


def _file(served: Served, graph: Form | None) -> Form:
    """Open what the target serves."""
    name, path = next(iter(served.files.items()))
    as_onnx = path if path.suffix == ".onnx" else None
    if graph is not None and graph.graph is not None and _same(path, graph.graph):
        return Form(name=name, graph=as_onnx, lowered=True, same_as=graph.name)
    why = targets.why_not(served.target)
    if why is not None:
        return Form(name=name, why=why, first=graph is None)

    def opened() -> Runner:
        run = targets.runner(served.files, served.expert, served.target)
        assert run is not None  # there is no reason why not
        return run

    return Form(
        name=name,
        run=_opened(opened),
        hint=_CONVERT,
        graph=as_onnx,
        first=graph is None,
        lowered=True,
    )


def _beside_router(served: Served, spec: Spec, repository: Path, file: Form) -> Iterator[Form]:
    """Open the copy that runs in the router's process, if there is one."""
    router = spec.model("router")
    in_force = folder_in_force(repository, spec.name)
    path = in_force / "experts" / f"{served.expert.name}.onnx"
    if not path.is_file():
        return
    name = f"{path.name} in {router}"
    if _same(path, next(iter(served.files.values()))):
        yield Form(name=name, same_as=file.name, aside=True)
        return
    run = _opened(lambda: OnnxExpert(path, served.expert.threads))
    yield Form(name=name, run=run, graph=path, lowered=True, aside=True)


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and file_digest(one) == file_digest(other)


def _opened(open_it: Callable[[], Runner]) -> Runner:
    """Open a runner; what cannot be opened fails where it would answer."""
    try:
        return open_it()
    except CascadeError as exc:
        return _failing(exc)


def _failing(error: CascadeError) -> Runner:
    def run(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        del rows
        raise error

    return run
