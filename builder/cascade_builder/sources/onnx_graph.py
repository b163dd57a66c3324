"""A foreign ONNX file made one of ours: named as all experts are, or refused with a way out.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from cascade_builder.runtime import OUTPUT
from cascade_router.errors import BuildError

from .onnx_file import OnnxSource
from .onnx_pixels import OPSET, put_first

if TYPE_CHECKING:
    from cascade_builder.spec import Input

__all__ = ["graph_from_file"]

_DYNAMIC = "export it again with a dynamic batch axis: torch.onnx.export(..., dynamic_shapes=...)"
_AGAIN = "export it again, or take another source for this expert"


def graph_from_file(source: OnnxSource, form: Input, classes: int, where: str) -> bytes:
    """Read a file, check that it fits, and name its input and output.

    Args:
        source: The file.
        form: The canonical rows.
        classes: C.
        where: What to call the expert in messages.

    Returns:
        ONNX with the weights inside: one input ``form.name``, one output ``LOGITS``, float32.
        Equal files give equal bytes.

    Raises:
        BuildError: If it is no ONNX, or does not take N canonical rows to (N, C).
    """
    where = f"{where}: {source.path.name}"
    model = _read(source.path, where)
    graph = model.graph
    _check_finite(graph, where)
    filled = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in filled]
    if len(inputs) != 1:
        names = ", ".join(one.name for one in inputs)
        _refuse(f"{where}: has inputs {names}, expected one", "merge or fix the others")
    # Older files list their weights as inputs too.
    del graph.input[:]
    graph.input.append(inputs[0])
    output = _output(graph, source.output, where)
    if source.pixels is None:
        _check_input(inputs[0], form.name, _code(form.dtype), form.shape, where)
    else:
        model = _with_pixels(model, source, form, where)
        graph = model.graph
    _check_output(graph, output, classes, where)
    _rename(graph, graph.input[0].name, form.name)
    _name_batch(graph.input[0])
    _name_batch(graph.output[0])
    return _bytes(model, where)


def _read(path: Path, where: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except DecodeError as exc:
        _refuse(f"{where}: is no ONNX file, or is cut short: {_line(exc)}", _AGAIN, exc)
    except (OSError, ValueError, onnx.checker.ValidationError) as exc:
        _refuse(f"{where}: is no valid ONNX: {_line(exc)}", _AGAIN, exc)
    if not model.graph.node:
        _refuse(f"{where}: holds no graph, or is cut short", _AGAIN)
    return model


def _check_finite(graph: Any, where: str) -> None:
    """Refuse NaN in any weight. Infinity is no fault: masks of attention hold it."""
    from onnx import numpy_helper

    for one in graph.initializer:
        values = numpy_helper.to_array(one)
        if np.issubdtype(values.dtype, np.floating) and bool(np.isnan(values).any()):
            hint = "load another checkpoint: this one cannot answer"
            _refuse(f"{where}: the weights {one.name!r} hold NaN", hint)


def _check_input(value: Any, name: str, code: int, shape: tuple[int, ...], where: str) -> None:
    """Refuse an input that does not take canonical rows in any number."""
    from onnx import TensorProto

    tensor = value.type.tensor_type
    dims = [_dim(one) for one in tensor.shape.dim]
    fits = len(dims) == 1 + len(shape) and all(
        have in (None, want) for have, want in zip(dims[1:], shape, strict=True)
    )
    if not fits or tensor.elem_type != code:
        got = f"{_named(tensor.elem_type)} {_shown(dims)}"
        wanted = f"{_named(code)} {_shown([None, *shape])}"
        hint = f"it must take the canonical rows {name} of [input]"
        if code == TensorProto.UINT8:
            hint += "; `pixels` puts resizing and normalising in front"
        _refuse(f"{where}: takes {got}, expected {wanted}", hint)
    if dims[0] is not None:
        _refuse(f"{where}: its batch axis is fixed at {dims[0]}, expected any number", _DYNAMIC)


def _output(graph: Any, wanted: str | None, where: str) -> Any:
    """Find the output that holds the logits; drop the others."""
    names = [one.name for one in graph.output]
    if wanted is None and len(names) > 1:
        _refuse(f"{where}: has outputs {', '.join(names)}", "say which holds the logits: `output`")
    if wanted is not None and wanted not in names:
        hint = f"it has {', '.join(names)}"
        _refuse(f"{where}: has no output {wanted!r}", hint)
    found = graph.output[0 if wanted is None else names.index(wanted)]
    kept = type(found)()
    kept.CopyFrom(found)
    del graph.output[:]
    graph.output.append(kept)
    return kept


def _check_output(graph: Any, output: Any, classes: int, where: str) -> None:
    """Refuse an output that is not (N, C); make it float32 and call it ``LOGITS``."""
    from onnx import TensorProto, helper

    tensor = output.type.tensor_type
    dims = [_dim(one) for one in tensor.shape.dim]
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    known = tensor.HasField("shape")
    if tensor.elem_type not in floats or (
        known and (len(dims) != 2 or dims[1] not in (None, classes))
    ):
        got = f"{_named(tensor.elem_type)} {_shown(dims)}"
        message = f"{where}: answers {got} as {output.name!r}, expected FLOAT [N, {classes}]"
        _refuse(message, "name the output of logits with `output`, or set `classes`")
    if known and dims[0] is not None:
        _refuse(f"{where}: answers {dims[0]} rows whatever it is given, expected N", _DYNAMIC)
    if tensor.elem_type == TensorProto.FLOAT:
        _rename(graph, output.name, OUTPUT)
    else:
        _rename(graph, OUTPUT, f"{OUTPUT}_inner")
        name = graph.output[0].name
        graph.node.append(helper.make_node("Cast", [name], [OUTPUT], to=TensorProto.FLOAT))
    shape: list[str | int | None] = ["batch", classes]
    graph.output[0].CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape))


def _with_pixels(model: Any, source: OnnxSource, form: Input, where: str) -> Any:
    """Put the canonical picture's preparation in front."""
    from onnx import TensorProto, version_converter

    assert source.pixels is not None
    if form.kind != "image":
        _refuse(f"{where}: `pixels` is for picture cascades", "leave it out")
    value, size = model.graph.input[0], source.pixels.size
    _check_input(value, value.name, TensorProto.FLOAT, (3, size, size), where)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except RuntimeError as exc:
            message = f"{where}: cannot be brought from opset {opset} to {OPSET}: {_line(exc)}"
            _refuse(message, f"export it again with opset {OPSET} or later", exc)
    _rename(model.graph, form.name, f"{form.name}_inner")
    put_first(model.graph, source.pixels, form.name, form.size)
    return model


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a tensor everywhere; one that has the new name already makes way."""
    if old == new:
        return
    if new in set(_names(graph)):
        _rename(graph, new, f"{new}_inner")
    for inner in _graphs(graph):
        for node in inner.node:
            for values in (node.input, node.output):
                for i, name in enumerate(values):
                    if name == old:
                        values[i] = new
        for one in [*inner.input, *inner.output, *inner.initializer, *inner.value_info]:
            if one.name == old:
                one.name = new


def _names(graph: Any) -> Iterator[str]:
    for inner in _graphs(graph):
        for node in inner.node:
            yield from node.input
            yield from node.output
        for one in [*inner.input, *inner.output, *inner.initializer]:
            yield one.name


def _graphs(graph: Any) -> Iterator[Any]:
    """Give a graph and those of its branches and loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                if inner.node:
                    yield from _graphs(inner)


def _name_batch(value: Any) -> None:
    value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _bytes(model: Any, where: str) -> bytes:
    from cascade_builder.export import stripped

    stripped(model)
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except ValueError as exc:  # of protobuf
        message = f"{where}: is larger than one file may be, 2 GiB"
        _refuse(message, "take a smaller net, or give an engine", exc)
    return data


def _code(dtype: str) -> int:
    from onnx import helper

    from cascade_builder.spec import DTYPES

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(DTYPES[dtype])))


def _named(code: int) -> str:
    from onnx import TensorProto

    # A damaged file may hold a number that names no dtype.
    known: dict[int, str] = {code: name for name, code in TensorProto.DataType.items()}
    return known.get(code, f"dtype {code}")


def _dim(dim: Any) -> int | None:
    """Say a side; None: any."""
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _shown(dims: list[int | None]) -> str:
    return f"[{', '.join('N' if one is None else str(one) for one in dims)}]"


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:200] or type(exc).__name__


def _refuse(message: str, hint: str, cause: BaseException | None = None) -> NoReturn:
    raise BuildError(message, hint=hint) from cause
