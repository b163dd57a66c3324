"""Experts that stay ONNX files: as they are at float32, written anew at a lower precision.

Both targets that ONNX Runtime serves share this; they differ in which precisions pay.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from cascade_router.errors import BuildError

from .identity import PRECISION, code, versions
from .job import Converted, Job

if TYPE_CHECKING:
    from cascade_builder.comparison import Comparison
    from cascade_builder.precision import Ranges

__all__ = ["MAIN_FILE", "convert", "toolchain"]

MAIN_FILE = "model.onnx"

_CODE = (*PRECISION, "comparison", "targets/onnx_files")


def toolchain(precision: str) -> dict[str, str]:
    """Say what a conversion depends on; a float32 file is only copied."""
    if precision == "fp32":
        return {}
    return versions("onnx", "onnxruntime", extra="build") | code(*_CODE)


def convert(job: Job) -> Converted:
    """Write the file at the expert's precision and compare it with the one that was given.

    Raises:
        BuildError: If it does not answer alike.
    """
    precision = job.expert.precision
    path = job.folder / MAIN_FILE
    if precision == "fp32":
        shutil.copyfile(job.onnx, path)
        return Converted(files=(MAIN_FILE,), figures={})
    job.tell(f"{precision} from ONNX")
    figures = _half(job) if precision in ("fp16", "bf16") else _int8(job)
    return Converted(files=(MAIN_FILE,), figures={f"onnx_to_{precision}": figures})


def _half(job: Job) -> dict[str, Any]:
    import onnx

    from cascade_builder.precision import half_from_onnx

    before = onnx.load(job.onnx)
    try:
        after = half_from_onnx(before, job.expert.precision)
    except BuildError as exc:
        message = f"{job.where}: {exc.message}"
        raise BuildError(message, hint=exc.hint) from exc
    comparison = _written(job, after)
    hint = "a layer overflows or cancels at 16 bits: use fp32 for this expert"
    job.require(comparison, before, after, hint)
    return comparison.as_json()


def _int8(job: Job) -> dict[str, Any]:
    """Quantise in the quickest way whose answers hold."""
    import onnx

    from cascade_builder.precision import Ranges

    before = onnx.load(job.onnx)
    ways = [
        Ranges(kind="cpu"),
        Ranges(kind="cpu", keep_ends=True),
        Ranges(kind="cpu", keep_ends=True, percentile=True),
    ]
    tried = []
    for way in ways:
        tried.append((way, *_quantised(job, before, way)))
        if not tried[-1][2].failures:
            break
    way, after, comparison = tried[-1]
    hint = f"give more and more typical [rows] ({len(job.sample)} were taken), or use fp32"
    job.require(comparison, before, after, hint)
    return {"ranges": str(way), **comparison.as_json()}


def _quantised(job: Job, before: Any, way: Ranges) -> tuple[Any, Comparison]:
    """Quantise in one way and compare."""
    from cascade_builder.precision import quantised_from_onnx

    job.tell(f"int8 from ONNX: {way}")
    try:
        after = quantised_from_onnx(before, job.sample, way)
    except BuildError as exc:
        message = f"{job.where}: {exc.message}"
        raise BuildError(message, hint=exc.hint) from exc
    return after, _written(job, after)


def _written(job: Job, model: Any) -> Comparison:
    """Write a form and compare its answers with those of the file it was made of."""
    import onnx

    from cascade_builder.runtime import OnnxExpert

    path = job.folder / MAIN_FILE
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(model)
    return job.compared(OnnxExpert(job.onnx)(job.sample), OnnxExpert(path)(job.sample))
