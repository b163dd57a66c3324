"""Torch to ONNX: one file, dynamic batch, the same bytes every time.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError

from .runtime import OUTPUT
from .sources.source import MakesModule
from .spec import Expert, Input

if TYPE_CHECKING:
    from torch import nn

__all__ = ["OPSET", "make", "onnx_from_torch", "stripped"]

OPSET = 20
"""Operators of ONNX 1.15 (2023): every Triton from 24.01 on reads them."""

_NOISY = ["torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir"]
_ONE_WAY = "compute every row from that row alone, for any number of rows"


def make(expert: Expert, form: Input) -> nn.Module:
    """Make an expert's module.

    Args:
        expert: Its source gives a ``module``.
        form: The canonical rows.

    Returns:
        The module, in eval mode, with finite weights.

    Raises:
        BuildError: If its source fails, or a weight is not finite.
    """
    import torch

    where = f"expert {expert.name!r}"
    module = cast(MakesModule, expert.source).module(form, where)
    for name, values in module.state_dict().items():
        if not bool(torch.isfinite(values).all()):
            message = f"{where}: the weights {name!r} hold NaN or infinity"
            raise BuildError(message, hint="load another checkpoint: this one cannot answer")
    return module.eval()


def onnx_from_torch(
    module: nn.Module, rows: npt.NDArray[Any], *, form: Input, classes: int, where: str
) -> bytes:
    """Export.

    Args:
        module: Canonical rows to logits.
        rows: (N, ...) canonical rows, N >= 1; two of them are traced.
        form: Names the input.
        classes: C.
        where: What to call the expert in messages.

    Returns:
        ONNX with the weights inside. Equal modules give equal bytes, which name no file of this
        machine.

    Raises:
        BuildError: If the module does not answer (N, C) float32, or cannot be exported.
    """
    import torch

    # torch.export takes a batch of one for a constant, so at least two rows are traced.
    sample = torch.from_numpy(np.ascontiguousarray(np.resize(rows, (2, *rows.shape[1:]))))
    _check_answer(module, sample, classes, where)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (sample,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[form.name],
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as exc:  # the exporter raises whatever the module's code raises
            message = f"{where}: cannot be exported to ONNX: {_last_line(exc)}"
            hint = f"{_ONE_WAY}; avoid branches on values, and operators that ONNX lacks"
            raise BuildError(message, hint=hint) from exc
        if program is None:
            message = f"{where}: the exporter gave nothing back"
            raise BuildError(message, hint="export it with torch.onnx.export to see why")
        model = program.model_proto
    return _checked(model, where)


def _check_answer(module: nn.Module, sample: Any, classes: int, where: str) -> None:
    """Refuse a module that does not answer (2, C) float32 for two rows."""
    import torch

    try:
        with torch.inference_mode(), _quiet():
            logits = module(sample)
    except Exception as exc:  # any code may stand in a module
        got = f"{str(sample.dtype).removeprefix('torch.')} {list(sample.shape)}"
        message = f"{where}: fails on rows {got}: {_last_line(exc)}"
        raise BuildError(message, hint="it must take the canonical rows of [input]") from exc
    shape = list(getattr(logits, "shape", ()))
    if shape != [2, classes] or logits.dtype != torch.float32:
        got = f"{getattr(logits, 'dtype', type(logits).__name__)} {shape}"
        message = f"{where}: answers {got} for 2 rows, expected torch.float32 [2, {classes}]"
        raise BuildError(message, hint=f"return logits; or set `classes`; {_ONE_WAY}")


def stripped(model: Any) -> None:
    """Take off an ``onnx.ModelProto`` what names a machine or says nothing of what it computes."""
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        part.doc_string = ""
        del part.metadata_props[:]
    # Shapes of inner tensors: ONNX Runtime infers them again, and they carry metadata as well.
    del graph.value_info[:]


def _checked(model: Any, where: str) -> bytes:
    """Strip what names this machine, check the graph, and write it."""
    import onnx

    stripped(model)
    if not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        message = f"{where}: its batch size became a constant in the export"
        raise BuildError(message, hint=_ONE_WAY)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as exc:
        message = f"{where}: the exported graph is not valid ONNX: {_last_line(exc)}"
        raise BuildError(message, hint="report it with the versions in manifest.json") from exc
    data: bytes = model.SerializeToString(deterministic=True)
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the exporter says about itself; its errors are raised."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _last_line(exc: BaseException) -> str:
    """Say the innermost cause in one line: the exporter wraps it in pages of advice."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0] if lines else 'no message'}"
