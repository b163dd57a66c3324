import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from picture_net import job, net, pictures

from cascade_builder import precision as p
from cascade_builder import targets
from cascade_builder.comparison import compare
from cascade_builder.precision.trunk import RESIZED
from cascade_builder.runtime import OUTPUT, OnnxExpert, inner_values
from cascade_router.errors import BuildError

ROWS = pictures(32)
FRESH = pictures(64, seed=5)


def answers(model: onnx.ModelProto, folder: Path, rows: Any = FRESH) -> Any:
    path = folder / "it.onnx"
    path.write_bytes(model.SerializeToString())
    return OnnxExpert(path)(rows)


def exact_answers(model: onnx.ModelProto, rows: Any = FRESH) -> Any:
    """Nothing fused: ONNX Runtime has no FP8 kernels, and takes such pairs for its own."""
    return inner_values(model, [OUTPUT], rows)[OUTPUT]


def failures(model: onnx.ModelProto, precision: str, folder: Path) -> list[str]:
    """What is wrong with the answers on rows that the ranges were not taken from."""
    expected, found = answers(net(), folder), answers(model, folder)
    return compare(expected, found, precision, activation="softmax").failures


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Type of every tensor that a node makes."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def attached(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def test_the_trunk_begins_at_the_first_layer_with_weights() -> None:
    """Crop, resize and normalising stay in float32."""
    assert [node.name for node in p.trunk(net().graph)] == [
        *("conv1", "relu1", "conv2", "skip", "conv3", "relu3", "pool", "flat", "head")
    ]


def test_weights_may_be_nodes_and_be_computed_from_constants() -> None:
    """Other exporters write constants as nodes, and transpose them on the way."""
    model = net()
    w4 = numpy_helper.to_array(attached(model, "w4"))
    model.graph.initializer.remove(attached(model, "w4"))
    head = model.graph.node[-1]
    value = numpy_helper.from_array(np.ascontiguousarray(w4.T))
    extra = [
        helper.make_node("Constant", [], ["turned"], value=value),
        helper.make_node("Transpose", ["turned"], ["w4"], perm=[1, 0]),
    ]
    del model.graph.node[:-1]
    model.graph.node.remove(head)
    plain = helper.make_node("Flatten", ["PIXELS"], ["flat"])
    model.graph.node.extend([*extra, plain, head])
    assert [node.name for node in p.trunk(model.graph)] == ["head"]


def test_a_product_that_stands_for_a_resize_is_no_layer() -> None:
    """Its matrix is constant and no weight."""
    model = net()
    model.graph.node[-1].name += RESIZED
    assert p.trunk(model.graph)[-1].name == f"head{RESIZED}"
    del model.graph.node[6:-1]
    assert p.trunk(model.graph) == []


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_sixteen_bits_hold_from_the_first_layer_on(precision: str) -> None:
    """The logits are float32 again, so is all before the layers; the graph is right by the book."""
    model = p.half_from_onnx(net(), precision)
    onnx.checker.check_model(model, full_check=True)
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    found = types(model)
    before = {name: found[name] for name in ("wide", "seen", "scaled")}
    inside = {name: found[name] for name in ("c1", "r1", "c2", "sum", "r3", "pooled", "flat")}
    assert set(before.values()) == {TensorProto.FLOAT}
    assert set(inside.values()) == {half}
    assert found[OUTPUT] == TensorProto.FLOAT
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    weights = {one.data_type for one in model.graph.initializer if len(one.dims) > 1}
    assert weights == {half}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_is_emulated_answers_within_the_tolerance(precision: str, tmp_path: Path) -> None:
    """And is float32 throughout, so that any processor runs it, with nothing finer than 16 bits."""
    model = p.half_from_onnx(net(), precision, emulated=True)
    assert failures(model, precision, tmp_path) == []
    values = inner_values(model, ["c1", "r3", "flat"], ROWS[:2])
    for value in values.values():
        assert value.dtype == np.float32
        bits = value.view(np.uint32) & (0x1FFF if precision == "fp16" else 0xFFFF)
        normal = np.abs(value) > 1e-4
        assert not bits[normal].any()


def test_fp16_as_onnx_runtime_runs_it_is_what_is_emulated(tmp_path: Path) -> None:
    """The emulation is what tells about engines that cannot run here."""
    real = answers(p.half_from_onnx(net(), "fp16"), tmp_path)
    emulated = answers(p.half_from_onnx(net(), "fp16", emulated=True), tmp_path)
    np.testing.assert_allclose(real, emulated, atol=4e-3 * float(real.std()))
    assert not np.array_equal(real, answers(net(), tmp_path))


def test_a_weight_too_large_for_fp16_is_named() -> None:
    """Infinity would silence the layer; bf16 has the range of float32."""
    w1 = numpy_helper.to_array(attached(net(), "w1")).copy()
    w1[0, 0, 0, 0] = 7e4
    model = net(w1=w1)
    with pytest.raises(BuildError, match="fp16: the weights 'w1' hold 7e"):
        p.half_from_onnx(model, "fp16")
    p.half_from_onnx(model, "bf16")


def test_an_operator_without_sixteen_bits_stays_float32(tmp_path: Path) -> None:
    """Casts stand around it: what quantises as it goes takes float32 alone."""
    model = net()
    pool = next(i for i, node in enumerate(model.graph.node) if node.name == "pool")
    model.graph.node[pool].input[0] = "back"
    eight = ["eight", "eight_scale", "eight_zero"]
    model.graph.node.insert(pool, helper.make_node("DequantizeLinear", eight, ["back"]))
    model.graph.node.insert(pool, helper.make_node("DynamicQuantizeLinear", ["r3"], eight))
    half = p.half_from_onnx(model, "fp16")
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert [found[name] for name in ("r3", "eight_scale", "back", "pooled")] == [
        *(TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT16)
    ]
    expected, got = answers(model, tmp_path), answers(half, tmp_path)
    np.testing.assert_allclose(got, expected, atol=0.05 * float(expected.std()))


def test_an_operator_of_which_onnx_knows_nothing_is_refused() -> None:
    """Its results have no type that casts could be chosen by."""
    model = net()
    relu = next(node for node in model.graph.node if node.name == "relu3")
    relu.op_type, relu.domain = "Gelu", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(BuildError, match=r"fp16: ONNX knows nothing of .* com.microsoft.Gelu"):
        p.half_from_onnx(model, "fp16")


def test_a_branch_in_the_layers_is_refused() -> None:
    """Names inside a branch would have to follow."""
    model = net()
    pool = next(i for i, node in enumerate(model.graph.node) if node.name == "pool")
    branches = [
        helper.make_graph(
            [helper.make_node("Identity", ["r3"], [f"b{i}"])],
            f"b{i}",
            [],
            [helper.make_tensor_value_info(f"b{i}", TensorProto.FLOAT, None)],
        )
        for i in range(2)
    ]
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    choice = helper.make_node(
        "If", ["yes"], ["r4"], then_branch=branches[0], else_branch=branches[1]
    )
    model.graph.node[pool].input[0] = "r4"
    model.graph.node.insert(pool, choice)
    model.graph.node.insert(pool, yes)
    with pytest.raises(BuildError, match="fp16: the graph has If, a branch or loop"):
        p.half_from_onnx(model, "fp16")


@pytest.mark.parametrize("kind", ["cpu", "gpu", "fp8"])
def test_eight_bits_answer_within_the_tolerance_on_fresh_rows(kind: str, tmp_path: Path) -> None:
    """Ranges from 32 rows, judged on 64 others; the same rows give the same bytes."""
    ranges = p.Ranges(kind=kind)
    model = p.quantised_from_onnx(net(), ROWS, ranges)
    onnx.checker.check_model(model, full_check=True)
    precision = "fp8" if kind == "fp8" else "int8"
    found = answers(model, tmp_path) if kind == "cpu" else exact_answers(model)
    assert compare(exact_answers(net()), found, precision, activation="softmax").failures == []
    again = p.quantised_from_onnx(net(), ROWS, ranges)
    first, second = (one.SerializeToString(deterministic=True) for one in (model, again))
    assert first == second
    assert tempfile.gettempdir().encode() not in first
    assert b"onnx.quant" not in first


def test_cpu_activations_are_unsigned_and_weights_signed_by_channel() -> None:
    """What VNNI multiplies; what only passes values on is quantised too, so nothing goes back."""
    model = p.quantised_from_onnx(net(), ROWS, p.Ranges(kind="cpu"))
    zeros = {node.op_type: set() for node in model.graph.node if node.op_type.endswith("izeLinear")}
    for node in model.graph.node:
        if node.op_type in zeros:
            zeros[node.op_type].add(attached(model, node.input[2]).data_type)
    assert zeros["QuantizeLinear"] == {TensorProto.UINT8}
    assert TensorProto.INT8 in zeros["DequantizeLinear"]
    w1 = next(one for one in model.graph.initializer if one.name == "w1_quantized")
    assert (w1.data_type, list(w1.dims)) == (TensorProto.INT8, [8, 3, 3, 3])
    assert list(attached(model, "w1_scale").dims) == [8]


@pytest.mark.parametrize(
    ("kind", "least", "most", "dtype"),
    [("gpu", -127, 127, TensorProto.INT8), ("fp8", -448, 448, TensorProto.FLOAT8E4M3FN)],
)
def test_gpu_pairs_are_symmetric_and_only_on_what_layers_read(
    kind: str, least: int, most: int, dtype: int
) -> None:
    """TensorRT takes no zero points, and wants pairs before layers with weights alone."""
    model = p.quantised_from_onnx(net(), ROWS, p.Ranges(kind=kind))
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            zero = attached(model, node.input[2])
            assert zero.data_type == dtype
            raw = zero.raw_data or bytes(zero.int32_data)
            assert not any(raw)
            assert readers[node.output[0]] == ["DequantizeLinear"]
        if node.op_type == "DequantizeLinear":
            assert not {"Conv", "MatMul"}.isdisjoint(readers[node.output[0]])
    pairs = inner_values(model, ["scaled", "scaled_DequantizeLinear_Output"], ROWS)
    before, after = pairs.values()
    scale = float(numpy_helper.to_array(attached(model, "scaled_scale")))
    assert np.abs(before).max() == pytest.approx(scale * most, rel=1e-5)
    assert least * scale * 1.001 <= after.min()
    assert after.max() <= most * scale * 1.001


def test_the_ends_can_stay_float32() -> None:
    """The first and the last layer read what no pair has touched."""
    model = p.quantised_from_onnx(net(), ROWS, p.Ranges(kind="cpu", keep_ends=True))
    inputs = {node.name: list(node.input) for node in model.graph.node}
    assert inputs["conv1"][:2] == ["scaled", "w1"]
    assert inputs["head"][1] == "w4"
    assert inputs["conv2"][1] != "w2"


def test_a_graph_without_layers_has_nothing_to_quantise() -> None:
    """It says so, rather than giving back what it got."""
    model = net()
    head = model.graph.node[-1]
    del model.graph.node[1:]
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["crop"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["wide"], [OUTPUT]),
        ]
    )
    assert head.name == "head"
    with pytest.raises(BuildError, match="no layer with weights is left to quantise of 0"):
        p.quantised_from_onnx(model, ROWS, p.Ranges(kind="cpu"))


def converted(a_job: Any) -> targets.Converted:
    found: targets.Converted = targets.convert(
        a_job.onnx, a_job.expert, a_job.spec, a_job.target, a_job.sample, a_job.folder
    )
    return found


def test_an_int8_expert_is_smaller_and_says_how_near_it_is(tmp_path: Path) -> None:
    """The files and figures of a conversion for the processor."""
    a_job = job(tmp_path, "embedded", "int8")
    made = converted(a_job)
    assert made.files == ("model.onnx",)
    figures = made.figures["onnx_to_int8"]
    assert figures["ranges"] == "ranges over all values"
    assert figures["rows"] == 32
    assert 0 < figures["error"] <= figures["tolerance"]["error"]
    run = OnnxExpert(a_job.folder / "model.onnx")
    np.testing.assert_allclose(run(FRESH[:1]), run(FRESH)[:1], atol=1e-5)


def test_the_next_way_is_taken_where_the_quickest_does_not_hold(tmp_path: Path) -> None:
    """One channel of the first layer's input is wild: no one scale fits all of them."""
    wild = np.array([1e3, 1, 1], dtype=np.float32).reshape(1, 3, 1, 1)
    w1 = numpy_helper.to_array(attached(net(), "w1")) / wild
    made = converted(job(tmp_path, "embedded", "int8", model=net(unit=64 / wild, w1=w1)))
    figures = made.figures["onnx_to_int8"]
    assert figures["ranges"] == "ranges over all values, first and last layer float32"


def test_ranges_that_do_not_hold_are_refused_with_the_layer(tmp_path: Path) -> None:
    """One channel a million times the others: no single scale of its sum with the rest fits."""
    w3 = numpy_helper.to_array(attached(net(), "w3")).copy()
    w1 = numpy_helper.to_array(attached(net(), "w1")).copy()
    w1[0] *= 1e6
    w3[:, 0] *= 1e-6
    w2 = numpy_helper.to_array(attached(net(), "w2"))
    a_job = job(tmp_path, "embedded", "int8", model=net(w1=w1, w2=w2, w3=w3))
    with pytest.raises(BuildError) as caught:
        converted(a_job)
    said = caught.value.message
    assert said.startswith("expert 'small': ONNX to int8 changed its answers on 32 real rows: ")
    assert "; the first layer to diverge is " in said
    assert caught.value.hint is not None
    assert "or use fp32" in caught.value.hint
