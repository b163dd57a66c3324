import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_files import INPUTS, linear, save

from cascade_builder.runtime import OnnxExpert
from cascade_builder.sources import OnnxSource
from cascade_builder.sources.answers import check_answers
from cascade_builder.sources.onnx_graph import graph_from_file
from cascade_builder.sources.onnx_pixels import PixelsFirst
from cascade_builder.sources.photo import Photo, PhotoForm
from cascade_builder.spec import Input
from cascade_router.errors import BuildError

FORM = Input(kind="tensor", name="FRAME", dtype="FP32", shape=(INPUTS,))
PICTURES = Input(kind="image", name="PIXELS", dtype="UINT8", shape=(24, 24, 3))
ROWS = np.random.default_rng(0).standard_normal((5, INPUTS)).astype(np.float32)


def brought(
    path: Path, *, classes: int = 3, form: Input = FORM, output: str | None = None, **options: Any
) -> bytes:
    source = OnnxSource(path=path, output=output, **options)
    return graph_from_file(source, form, classes, "expert 'x'")


def answers(path: Path, rows: Any = ROWS, **options: Any) -> Any:
    """What the file answers once it is one of ours."""
    ours = path.with_name("ours.onnx")
    ours.write_bytes(brought(path, **options))
    return OnnxExpert(ours)(rows)


def straight(path: Path, rows: Any = ROWS) -> Any:
    """What the file answers by itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run([session.get_outputs()[0].name], {session.get_inputs()[0].name: rows})[0]


def test_a_foreign_file_answers_as_before_under_our_names(tmp_path: Path) -> None:
    """Whatever its input and output were called, for any number of rows."""
    path = save(linear(), tmp_path / "theirs.onnx")
    np.testing.assert_array_equal(answers(path), straight(path))
    graph = onnx.load_from_string(brought(path)).graph
    assert [one.name for one in (*graph.input, *graph.output)] == ["FRAME", "LOGITS"]
    for n in (1, 3):
        np.testing.assert_array_equal(answers(path, ROWS[:n]), straight(path, ROWS[:n]))


def test_a_file_that_is_ours_already_stays_as_it_is(tmp_path: Path) -> None:
    """Bringing it in twice changes nothing."""
    path = save(linear(names=("FRAME", "LOGITS")), tmp_path / "ours.onnx")
    once = brought(path)
    path.write_bytes(once)
    assert brought(path) == once


@pytest.mark.parametrize("names", [("LOGITS", "FRAME"), ("flat", "y"), ("x", "w_")])
def test_inner_tensors_of_our_names_make_way(names: tuple[str, str], tmp_path: Path) -> None:
    """An input called LOGITS, an output called FRAME, and names from the middle of the graph."""
    model = linear(names=("a", "b"))
    for node in model.graph.node:
        for values in (node.input, node.output):
            for i, name in enumerate(values):
                values[i] = {"float": "LOGITS", "flat": "FRAME"}.get(name, name)
    path = save(model, tmp_path / "model.onnx")
    np.testing.assert_array_equal(answers(path), straight(path))
    path = save(linear(names=names if names[0] != "flat" else ("x", "y")), path)
    np.testing.assert_array_equal(answers(path), straight(path))


def test_names_inside_a_branch_follow(tmp_path: Path) -> None:
    """A branch reads tensors of the graph around it by name."""
    branches = [
        helper.make_graph(
            [helper.make_node("Add", ["flat", "x"], [f"sum_{i}"])],
            f"branch_{i}",
            [],
            [helper.make_tensor_value_info(f"sum_{i}", TensorProto.FLOAT, ["n", INPUTS])],
        )
        for i in range(2)
    ]
    inner = [
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node(
            "If", ["yes"], ["ready"], then_branch=branches[0], else_branch=branches[1]
        ),
    ]
    path = save(linear(inner=inner), tmp_path / "model.onnx")
    np.testing.assert_array_equal(answers(path), straight(path))


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_floats_become_float32(dtype: int, tmp_path: Path) -> None:
    """The router reads float32."""
    path = save(linear(out_dtype=dtype), tmp_path / "model.onnx")
    found = answers(path)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, straight(path).astype(np.float32))


def test_one_of_several_outputs_is_chosen_by_name(tmp_path: Path) -> None:
    """And must be: nothing tells logits from embeddings."""
    model = linear()
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 8]))
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(BuildError, match="has outputs y, flat") as caught:
        brought(path)
    assert caught.value.hint == "say which holds the logits: `output`"
    np.testing.assert_array_equal(answers(path, output="y"), straight(path))


def test_weights_beside_the_file_come_inside(tmp_path: Path) -> None:
    """What is served is one file; both files are what it was made from."""
    path = tmp_path / "model.onnx"
    model = linear(weights=np.random.default_rng(1).standard_normal((8, 300)), classes=300)
    onnx.save(model, path, save_as_external_data=True, location="model.bin", size_threshold=0)
    source = OnnxSource(path=path)
    assert source.files() == [path, tmp_path / "model.bin"]
    expected = straight(path)
    data = brought(path, classes=300)
    (tmp_path / "model.bin").unlink()
    ours = tmp_path / "ours.onnx"
    ours.write_bytes(data)
    np.testing.assert_array_equal(OnnxExpert(ours)(ROWS), expected)


def two_inputs() -> onnx.ModelProto:
    inner = [helper.make_node("Add", ["flat", "mask"], ["ready"])]
    model = linear(inner=inner)
    extra = helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["n", INPUTS])
    model.graph.input.append(extra)
    return model


def with_nan() -> onnx.ModelProto:
    weights = np.ones((INPUTS, 3))
    weights[4, 1] = np.nan
    return linear(weights=weights)


def unknown_operator(domain: str) -> onnx.ModelProto:
    inner = [helper.make_node("Frobnicate", ["flat"], ["ready"], domain=domain)]
    return linear(inner=inner)


@pytest.mark.parametrize(
    ("model", "says", "way_out"),
    [
        (linear(shape=(7,)), r"takes FLOAT \[N, 7\], expected FLOAT \[N, 8\]", "canonical rows"),
        (linear(shape=(8, 1)), r"takes FLOAT \[N, 8, 1\], expected", "canonical rows"),
        (linear(dtype=TensorProto.INT64), r"takes INT64 \[N, 8\], expected FLOAT", "canonical"),
        (linear(batch=1), "its batch axis is fixed at 1, expected any number", "dynamic batch"),
        (linear(batch=4), "its batch axis is fixed at 4", "dynamic batch"),
        (linear(classes=4), r"answers FLOAT \[N, 4\] as 'y', expected FLOAT \[N, 3\]", "classes"),
        (linear(out_dtype=TensorProto.INT64), r"answers INT64 \[N, 3\]", "output"),
        (two_inputs(), "has inputs x, mask, expected one", "merge or fix"),
        (with_nan(), "the weights 'w' hold NaN", "another checkpoint"),
        (unknown_operator(""), "is no valid ONNX: No Op registered for Frobnicate", "export it"),
        (helper.make_model(helper.make_graph([], "g", [], [])), "no graph", "export it again"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    model: onnx.ModelProto, says: str, way_out: str, tmp_path: Path
) -> None:
    """In one paragraph that names expert, file and values, with a way out."""
    path = save(model, tmp_path / "theirs.onnx")
    with pytest.raises(BuildError, match=says) as caught:
        brought(path)
    assert caught.value.message.startswith("expert 'x': theirs.onnx: ")
    assert way_out in str(caught.value.hint)
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("data", [b"", b"hello, this is no graph", b"\x00" * 64, b"PK\x03\x04 zip"])
def test_what_is_no_graph_is_refused(data: bytes, tmp_path: Path) -> None:
    """A file of another kind, or an empty one."""
    path = tmp_path / "theirs.onnx"
    path.write_bytes(data)
    with pytest.raises(BuildError, match=r"theirs\.onnx: (is no|holds no)"):
        brought(path)


WHOLE = linear().SerializeToString()


@settings(max_examples=60)
@given(length=st.integers(0, len(WHOLE) - 1))
def test_a_file_cut_short_anywhere_is_refused(
    length: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Never laid out, never a traceback of protobuf."""
    path = tmp_path_factory.mktemp("cut") / "theirs.onnx"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(BuildError) as caught:
        brought(path)
    assert caught.value.hint is not None


@settings(max_examples=60)
@given(at=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255))
def test_a_damaged_file_is_refused_or_still_answers(
    at: int, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One wrong byte: an error of ours, or a graph that ONNX Runtime takes or refuses as ours."""
    path = tmp_path_factory.mktemp("damaged") / "theirs.onnx"
    path.write_bytes(WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :])
    run = path.with_name("ours.onnx")
    with contextlib.suppress(BuildError):
        run.write_bytes(brought(path))
        check_answers(OnnxExpert(run), ROWS, classes=3, max_batch=8, where="expert 'x'")


def test_missing_weights_beside_the_file_are_named(tmp_path: Path) -> None:
    """The file was copied without its weights."""
    path = tmp_path / "model.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="gone.bin", size_threshold=0)
    (tmp_path / "gone.bin").unlink()
    with pytest.raises(BuildError, match=r"gone\.bin"):
        brought(path)


def test_a_batch_size_fixed_inside_is_found_by_running_it(tmp_path: Path) -> None:
    """The input says any number, a Reshape in the middle says four."""
    inner = [
        helper.make_node(
            "Constant", [], ["to"], value=numpy_helper.from_array(np.array([4, INPUTS]))
        ),
        helper.make_node("Reshape", ["flat", "to"], ["ready"]),
    ]
    path = tmp_path / "ours.onnx"
    path.write_bytes(brought(save(linear(inner=inner), tmp_path / "theirs.onnx")))
    with pytest.raises(BuildError, match=r"expert 'x': fails on 1 rows") as caught:
        check_answers(OnnxExpert(path), ROWS, classes=3, max_batch=8, where="expert 'x'")
    assert "dynamic batch axis" in str(caught.value.hint)


def test_an_operator_that_onnx_runtime_lacks_is_named(tmp_path: Path) -> None:
    """A custom one passes ONNX's own check, as nobody knows what it does."""
    path = tmp_path / "ours.onnx"
    path.write_bytes(brought(save(unknown_operator("com.example"), tmp_path / "theirs.onnx")))
    with pytest.raises(BuildError, match="Frobnicate"):
        OnnxExpert(path)


@pytest.mark.parametrize("opset", [13, 18, 20])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
def test_pixels_in_front_are_what_torch_makes_of_them(
    mode: str, opset: int, tmp_path: Path
) -> None:
    """Crop, resize, normalise: the same numbers as the module that timm's nets get."""
    size, crop = 16, 0.875
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    path = save(linear(shape=(3, size, size), opset=opset), tmp_path / "theirs.onnx")
    rows = np.random.default_rng(5).integers(0, 256, (3, *PICTURES.shape), dtype=np.uint8)
    first = PixelsFirst(size=size, mean=mean, deviation=deviation, mode=mode, crop=crop)
    found = answers(path, rows, form=PICTURES, pixels=first)

    form = PhotoForm(height=size, width=size, mean=mean, deviation=deviation, mode=mode, crop=crop)
    with torch.inference_mode():
        seen = Photo(torch.nn.Identity(), form)(torch.from_numpy(rows)).numpy()
    np.testing.assert_allclose(found, straight(path, seen), rtol=1e-4, atol=1e-3)


def test_pictures_without_pixels_in_front_say_what_is_missing(tmp_path: Path) -> None:
    """Most files of others take normalised planes."""
    path = save(linear(shape=(3, 16, 16)), tmp_path / "theirs.onnx")
    with pytest.raises(BuildError, match=r"takes FLOAT \[N, 3, 16, 16\]") as caught:
        brought(path, form=PICTURES)
    assert "`pixels` puts resizing and normalising in front" in str(caught.value.hint)


def answering(values: Any) -> Any:
    return lambda rows: np.resize(np.asarray(values, dtype=np.float32), (len(rows), 3))


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (lambda rows: rows.sum(axis=1), r"answers \[1\] for 1 rows, expected \[1, 3\]"),
        (answering([1, 2, np.nan]), "answers NaN or infinity"),
        (lambda rows: rows[:, :3] - rows.mean(axis=0)[:3], "otherwise in a batch of 8 than alone"),
        (lambda rows: rows[:2, :3], r"answers \[2, 3\] for 8 rows"),
    ],
)
def test_answers_that_are_none_are_refused(run: Any, says: str) -> None:
    """Wrong shape, not finite, dependent on batch mates, or not one per row."""
    with pytest.raises(BuildError, match=says):
        check_answers(run, ROWS, classes=3, max_batch=8, where="expert 'x'")
