"""Whether a repository still answers as what it was made of, after every conversion.

    report, server <- forms <- pairs, running <- here

An expert has several forms: the torch module, its ONNX graph, the file that is served, the model
that Triton serves. All of them get the same real rows, alone and in batches, and each is compared
with the one before it. A build compares all but the last: starting a server takes longer than all
the rest of a build in which little changed, and a machine that builds often serves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cascade_builder import rows as real
from cascade_builder.served import Served, served_experts
from cascade_builder.spec import Spec
from cascade_builder.tasks import Tasks

from .forms import local_forms, served_form
from .pairs import Pairs
from .report import ExpertReport, Report
from .server import Asked, asked

__all__ = ["Report", "verify"]

_SEVERAL = 8

Tell = Callable[[str], None]


def verify(
    spec: Spec,
    repository: Path,
    *,
    artifacts_folder: Path = Path("build"),
    n_rows: int = 32,
    serve: bool = True,
    url: str | None = None,
    tell: Tell = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Compare every form of every expert with the form that it was made of.

    Args:
        spec: The cascade.
        repository: The model repository.
        artifacts_folder: Where builds keep the graphs.
        n_rows: Real rows of the spec to take, at most.
        serve: Ask a server too: one started on the repository, on free ports of loopback.
        url: Host and gRPC port of a server that runs already, which is asked instead.
        tell: Takes progress.
        clock: Seconds.

    Raises:
        BuildError: If the cascade is not there, or a file is not the one that was built.
        RecordsError: If the rows cannot be read.
        ServerError: If the server at ``url`` does not answer, or ours ends.
    """
    start = clock()
    experts = served_experts(spec, repository)
    rows = real.canonical(real.raw(spec.rows, spec.input.kind, n_rows), spec.input)
    tasks = Tasks(artifacts_folder / spec.name, spec, experts[0].target, repository)
    models = [one.model for one in experts]
    with asked(repository, models if serve else [], url, tell) as server:
        work = _Verification(spec, repository, tasks, rows, server, tell)
        reports = tuple(map(work.expert, experts))
    return Report(
        cascade=spec.name,
        repository=str(repository),
        target=experts[0].target,
        server=server.said,
        rows=len(rows),
        batches=tuple(work.sizes),
        experts=reports,
        seconds=round(clock() - start, 2),
    )


class _Verification:
    """Compares the forms of experts on the same rows."""

    def __init__(
        self,
        spec: Spec,
        repository: Path,
        tasks: Tasks,
        rows: npt.NDArray[Any],
        server: Asked,
        tell: Tell,
    ) -> None:
        self.sizes = sorted({1, min(_SEVERAL, spec.max_batch, len(rows))})
        self._spec = spec
        self._repository = repository
        self._tasks = tasks
        self._rows = rows
        self._server = server
        self._tell = tell

    def expert(self, served: Served) -> ExpertReport:
        """Compare the forms of one expert."""
        from .running import answers

        forms = local_forms(
            served, self._spec, self._repository, self._tasks, self._server, self._tell
        )
        if self._server.wanted:
            forms.append(served_form(served, self._spec, self._server))
        runs = {form.name: form.run for form in forms if form.run is not None}
        self._tell(f"{served.expert.name}: running {', '.join(runs) or 'nothing'}")
        found = answers(runs, self._spec, self._rows, self.sizes)
        return ExpertReport(
            name=served.expert.name,
            model=served.model,
            precision=served.expert.precision,
            steps=tuple(Pairs(self._spec, served, found, self._rows).steps(forms)),
        )
