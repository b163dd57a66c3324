from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from picture_net import net, pictures

from cascade_builder.comparison import TOLERANCES, compare, first_divergence, require
from cascade_router.errors import BuildError

LOGITS = np.random.default_rng(0).standard_normal((200, 10)).astype(np.float32)
ROWS = pictures(8)


def compared(found: npt.NDArray[Any], precision: str = "fp16", **options: Any) -> Any:
    return compare(LOGITS, found, precision, activation="softmax", **options)


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_equal_logits_pass_at_every_precision(precision: str) -> None:
    """All figures are perfect."""
    found = compared(LOGITS.copy(), precision)
    assert found.failures == []
    assert (found.label_agreement, found.score_drift, found.error) == (1, 0, 0)


@pytest.mark.parametrize("precision", sorted(TOLERANCES))
def test_noise_of_twice_the_tolerance_fails(precision: str) -> None:
    """And half of it passes: the tolerance is neither idle nor closed."""
    noise = np.random.default_rng(1).standard_normal(LOGITS.shape) * LOGITS.std()
    error = TOLERANCES[precision].error
    little = compared((LOGITS + 0.5 * error * noise).astype(np.float32), precision)
    much = compared((LOGITS + 2 * error * noise).astype(np.float32), precision)
    assert [one for one in little.failures if one.startswith("error")] == []
    assert any(one.startswith("error") for one in much.failures)


def test_a_finer_precision_tolerates_less() -> None:
    """Each in the order of the bits it keeps."""
    errors = [TOLERANCES[one].error for one in ("fp32", "fp16", "bf16", "int8", "fp8")]
    assert errors == sorted(errors)


@given(st.sampled_from(["nan", "inf", "-inf"]), st.integers(0, 199), st.integers(0, 9))
def test_one_logit_that_is_not_finite_fails(value: str, row: int, column: int) -> None:
    """Wherever it is, and on either side."""
    spoiled = LOGITS.copy()
    spoiled[row, column] = float(value)
    assert compared(spoiled).failures == ["logits are not finite"]
    swapped = compare(spoiled, LOGITS, "int8", activation="softmax")
    assert swapped.failures == ["logits are not finite"]


def test_logits_of_another_shape_fail() -> None:
    """A class too few is no rounding."""
    assert compared(LOGITS[:, :9]).failures != []


def test_other_labels_fail_though_the_logits_are_near() -> None:
    """Labels decide, so a tenth of them wrong is too many at 16 bits; ties are forgiven."""
    found = LOGITS.copy()
    top = LOGITS.argmax(axis=1)
    rows = np.arange(20)
    found[rows, top[:20]] = LOGITS[:20].min(axis=1)
    assert compared(found).label_agreement == pytest.approx(0.9)
    assert any(one.startswith("labels agree on 0.9") for one in compared(found).failures)

    tied = LOGITS.copy()
    second = np.sort(LOGITS, axis=1)[:, -2]
    near = int(np.argmin(LOGITS.max(axis=1) - second))
    tied[near, top[near]] = second[near] - 1e-6
    assert compared(tied).label_agreement == 1.0


def test_neighbouring_labels_count_as_the_same_where_the_spec_says_so() -> None:
    """Pitch bins are ordered."""
    moved = np.roll(LOGITS, 1, axis=1)
    moved[LOGITS.argmax(axis=1) == 9] = LOGITS[LOGITS.argmax(axis=1) == 9]
    assert compared(moved, "int8", label_tolerance=1).label_agreement == 1.0
    assert compared(moved, "int8").label_agreement < 0.5


def test_a_refusal_names_step_figures_and_layer_and_asks_for_the_layer_only_then() -> None:
    """The message is all that its reader has."""
    asked = []

    def culprit() -> str:
        asked.append(1)
        return "the first layer to diverge is Conv conv2 (error 3)"

    options: Any = {"where": "expert 'x'", "step": "ONNX to fp16", "hint": "h", "culprit": culprit}
    require(compared(LOGITS), **options)
    assert asked == []
    with pytest.raises(BuildError) as caught:
        require(compared(-LOGITS), **options)
    said = caught.value.message
    assert said.startswith("expert 'x': ONNX to fp16 changed its answers on 200 real rows: labels")
    assert said.endswith("; the first layer to diverge is Conv conv2 (error 3)")
    assert asked == [1]


def spoiled(name: str, factor: float) -> onnx.ModelProto:
    """The net with one weight tensor multiplied."""
    model = net()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    return model


@pytest.mark.parametrize(
    ("weight", "layer"),
    [
        ("w1", "Conv 'conv1'"),
        ("w2", "Conv 'conv2'"),
        ("w3", "Conv 'conv3'"),
        ("w4", "MatMul 'head'"),
    ],
)
def test_the_first_layer_to_diverge_is_the_spoiled_one(weight: str, layer: str) -> None:
    """Wherever the fault is planted; all after it diverge as well."""
    found = first_divergence(net(), spoiled(weight, -1), ROWS, "int8")
    assert found is not None
    assert found.startswith(f"the first layer to diverge is {layer} (error ")


def test_where_no_layer_is_outside_the_tolerance_the_largest_jump_is_named() -> None:
    """Many small errors add up; the one that adds most is where to look."""
    found = first_divergence(net(), spoiled("w2", 1.05), ROWS, "int8")
    assert found is not None
    assert found.startswith("the error grows most at Conv 'conv2' (error ")


def test_graphs_without_a_common_tensor_say_nothing() -> None:
    """There is nothing to name."""
    other = net()
    for node in other.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                fixed = name in ("PIXELS", "") or any(
                    name == t.name for t in other.graph.initializer
                )
                names[i] = name if fixed else f"{name}_else"
    other.graph.output[0].name = "LOGITS_else"
    assert first_divergence(net(), other, ROWS, "fp32") is None
