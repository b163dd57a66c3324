from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from picture_net import job, net, pictures

from cascade_builder.precision.trunk import RESIZED
from cascade_builder.runtime import OUTPUT, inner_values
from cascade_builder.targets.graph import cast_first, products_for_resizes
from cascade_builder.targets.network import network_from_onnx
from cascade_router.errors import BuildError


def answers(model: onnx.ModelProto, rows: Any, name: str = OUTPUT) -> Any:
    return inner_values(model, [name], rows)[name]


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def resize(shape: tuple[int, int], sizes: Any, scales: Any, **how: Any) -> onnx.ModelProto:
    """A graph that resizes (n, 2, *shape) and nothing else; by scales, or by sizes."""
    node = helper.make_node
    by_scale = scales is not None
    value = np.array([1, 1, *scales], dtype=np.float32) if by_scale else np.array(sizes)
    if by_scale:
        nodes = [node("Resize", ["x", "", "how"], ["LOGITS"], **how)]
    else:
        # Sizes must name the batch, which is known when it runs only.
        nodes = [
            node("Shape", ["x"], ["n"], end=1),
            node("Concat", ["n", "how"], ["all"], axis=0),
            node("Resize", ["x", "", "", "all"], ["LOGITS"], **how),
        ]
        value = np.array([2, *sizes])
    graph = helper.make_graph(
        nodes,
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, *shape])],
        [helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, "how")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


SIDES = st.integers(2, 24)


@settings(max_examples=60)
@given(
    shape=st.tuples(SIDES, SIDES),
    sizes=st.tuples(SIDES, SIDES),
    by_scale=st.booleans(),
    mode=st.sampled_from(["linear", "cubic"]),
    place=st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    coefficient=st.sampled_from([-0.5, -0.75]),
    outside=st.integers(0, 1),
    seed=st.integers(0, 99),
)
def test_products_of_matrices_are_onnx_runtimes_resize(
    shape: tuple[int, int],
    sizes: tuple[int, int],
    by_scale: bool,
    mode: str,
    place: str,
    coefficient: float,
    outside: int,
    seed: int,
) -> None:
    """Up and down, each axis by itself, every kernel and way of placing samples; any batch."""
    scales = [a / b for a, b in zip(sizes, shape, strict=True)] if by_scale else None
    how: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": place, "antialias": 1}
    if mode == "cubic":
        how |= {"cubic_coeff_a": coefficient, "exclude_outside": outside}
    given_graph = resize(shape, sizes, scales, **how)
    rows = np.random.default_rng(seed).uniform(0, 255, (3, 2, *shape)).astype(np.float32)
    expected = answers(given_graph, rows)

    changed = onnx.ModelProto()
    changed.CopyFrom(given_graph)
    assert products_for_resizes(changed, rows[:1]) == 1

    assert "Resize" not in operators(changed)
    for n in (1, 3):
        np.testing.assert_allclose(answers(changed, rows[:n]), expected[:n], atol=2e-3)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "linear"},
        {"mode": "nearest"},
        {"mode": "linear", "antialias": 1, "keep_aspect_ratio_policy": "not_larger"},
        {"mode": "linear", "antialias": 1, "axes": [2, 3]},
    ],
)
def test_other_resizes_stay(how: dict[str, Any]) -> None:
    """TensorRT knows those without antialiasing; the rest is for it to refuse."""
    model = resize((8, 8), (5, 5), None, **how)
    if "axes" in how:
        del model.graph.node[:2]
        model.graph.node[0].input[3] = "how"
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([5, 5]), "how"))
    before = model.SerializeToString()
    assert products_for_resizes(model, np.zeros((1, 2, 8, 8), np.float32)) == 0
    assert model.SerializeToString() == before


def test_pixels_are_cast_before_they_are_moved() -> None:
    """And answers stay, to the last bit; stale types of inner tensors go."""
    model = net()
    model.graph.value_info.append(
        helper.make_tensor_value_info("crop", TensorProto.UINT8, ["n", 20, 20, 3])
    )
    before = answers(net(), pictures(4))
    cast_first(model)
    onnx.checker.check_model(model, full_check=True)
    assert operators(model)[:4] == ["Cast", "Slice", "Transpose", "Identity"]
    np.testing.assert_array_equal(answers(model, pictures(4)), before)


def test_pixels_that_are_more_than_moved_stay_8_bit() -> None:
    """A cast does not commute with arithmetic that wraps around."""
    model = net()
    model.graph.node.insert(0, helper.make_node("Add", ["PIXELS", "PIXELS"], ["twice"]))
    model.graph.node[1].input[0] = "twice"
    before = model.SerializeToString()
    cast_first(model)
    assert model.SerializeToString() == before


def test_a_network_has_no_resize_and_answers_alike(tmp_path: Path) -> None:
    """What the TensorRT targets parse, at float32."""
    network, figures = network_from_onnx(job(tmp_path, "tensorrt-rtx"))
    assert "Resize" not in operators(network)
    assert [node.name.endswith(RESIZED) for node in network.graph.node].count(True) == 2
    assert figures["onnx_to_network"]["error"] < 1e-5
    assert list(figures) == ["onnx_to_network"]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "fp8"])
def test_a_network_at_a_precision_says_how_near_it_is(precision: str, tmp_path: Path) -> None:
    """The resize's matrices stay float32; the layers do not."""
    network, figures = network_from_onnx(job(tmp_path, "tensorrt-rtx", precision))
    found = figures[f"network_to_{precision}"]
    assert 0 < found["error"] <= found["tolerance"]["error"]
    kinds = {t.name: t.data_type for t in network.graph.initializer if len(t.dims) > 1}
    assert {kind for name, kind in kinds.items() if name.startswith("seen")} == {TensorProto.FLOAT}
    wanted = {
        "fp16": {TensorProto.FLOAT16},
        "bf16": {TensorProto.BFLOAT16},
        "int8": {TensorProto.FLOAT},  # quantised by a pair that the library folds
        "fp8": {TensorProto.FLOAT},
    }[precision]
    assert {kind for name, kind in kinds.items() if not name.startswith("seen")} == wanted


def test_a_layer_that_overflows_is_named(tmp_path: Path) -> None:
    """Sums beyond 65504: infinite in fp16, finite in bf16."""
    w1 = numpy_helper.to_array(next(t for t in net().graph.initializer if t.name == "w1")) * 3e4
    w3 = numpy_helper.to_array(next(t for t in net().graph.initializer if t.name == "w3")) / 3e4
    model = net(w1=w1.astype(np.float32), w3=w3.astype(np.float32))
    with pytest.raises(BuildError) as caught:
        network_from_onnx(job(tmp_path, "tensorrt-rtx", "fp16", model=model))
    said = caught.value.message
    assert said.startswith("expert 'small': ONNX to fp16 changed its answers on 32 real rows: ")
    assert "the first layer to diverge is Conv 'conv1' (error inf)" in said
    network_from_onnx(job(tmp_path, "tensorrt-rtx", "bf16", model=model))
