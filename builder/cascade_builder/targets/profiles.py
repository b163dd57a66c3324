"""Whether an engine answers as its ONNX file does, at each of its optimisation profiles.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cascade_builder.comparison import require
from cascade_builder.runtime import OUTPUT

from .job import Array, Job

__all__ = ["verified"]

_BATCH = 8
"""Rows at once where a profile takes so many; more would only need more memory."""


def verified(job: Job, opened: Callable[[int], Any]) -> dict[str, Any]:
    """Run ONNX Runtime and the engine side by side by Polygraphy's comparator, on the real rows.

    Args:
        job: The expert.
        opened: Gives a Polygraphy runner of the engine at the profile of that number.

    Returns:
        Figures, by step.

    Raises:
        BuildError: If it answers otherwise; names the profile.
    """
    profiles = job.spec.engine.batches(job.spec.max_batch)
    figures = {}
    for number, (low, _, high) in enumerate(profiles):
        several = len(profiles) > 1
        batches = _batches(job.sample, max(low, min(_BATCH, high)))
        comparison = job.compared(*_answers(job, batches, opened(number)))
        require(
            comparison,
            where=job.where,
            step=f"ONNX to engine at {job.expert.precision}" + f", profile {number}" * several,
            hint="try another precision, or fp32 (not tf32); the network itself was right",
        )
        figures["onnx_to_engine" + f"_profile_{number}" * several] = comparison.as_json()
    return figures


def _batches(rows: Array, size: int) -> list[Array]:
    """Cut rows into full batches; the first rows come again in the last one."""
    n = -(-len(rows) // size) * size
    return list(np.resize(rows, (n, *rows.shape[1:])).reshape(-1, size, *rows.shape[1:]))


def _answers(job: Job, batches: list[Array], engine: Any) -> list[Array]:
    """Give the logits of both for the sample's N rows."""
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator

    feed = [{job.spec.input.name: batch} for batch in batches]
    runners = [OnnxrtRunner(SessionFromOnnx(str(job.onnx)), name="onnx"), engine]
    results = Comparator.run(runners, data_loader=feed)
    return [
        np.concatenate([np.asarray(one[OUTPUT]) for one in iterations])[: len(job.sample)]
        for _, iterations in results.items()
    ]
