"""A small net for pictures, written by hand: crop, antialiased resize, convolutions, a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cascade_builder.spec import Spec
from cascade_builder.targets.job import Job

__all__ = ["CLASSES", "SIDE", "SPEC", "job", "net", "pictures", "spec"]

SIDE = 24
CLASSES = 10
_INNER = 12

SPEC = f"""
[cascade]
name = "toy"
classes = {CLASSES}
max_batch = 8

[input]
kind = "image"
size = {SIDE}

[rows]
factory = "nothing:rows"

[[expert]]
name = "small"
onnx = "small.onnx"

[[expert]]
name = "large"
onnx = "large.onnx"

[[point]]
name = "half"
threshold = 0.5
"""


def spec(folder: Path, more: str = "", **of_first: str) -> Spec:
    """Read a spec of two such nets, whose files are empty where they are not written yet.

    Args:
        folder: What relative paths are looked up in.
        more: Tables to add.
        of_first: Keys of the first expert, as TOML.
    """
    keys = "".join(f"{key} = {value}\n" for key, value in of_first.items())
    for name in ("small.onnx", "large.onnx"):
        (folder / name).touch()
    text = SPEC.replace('name = "small"\n', f'name = "small"\n{keys}', 1)
    return Spec.parse(text + more, folder)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    """Draw (n, SIDE, SIDE, 3) uint8 pictures: a few blots of colour, and some noise."""
    rng = np.random.default_rng(seed)
    blots = rng.uniform(0, 255, (n, 4, 4, 3)).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)
    noise = rng.normal(0, 8, blots.shape)
    return (blots + noise).clip(0, 255).astype(np.uint8)


def net(**changed: Any) -> onnx.ModelProto:
    """Make the net.

    Args:
        changed: Weights by name, in place of those drawn.
    """
    rng = np.random.default_rng(1)
    shapes = {
        "w1": (8, 3, 3, 3),
        "w2": (8, 1, 3, 3),  # depthwise
        "w3": (16, 8, 1, 1),
        "w4": (16, CLASSES),
    }
    constants = {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    constants["w4"] *= 8
    constants |= {
        "starts": np.array([2, 2]),
        "ends": np.array([SIDE - 2, SIDE - 2]),
        "axes": np.array([1, 2]),
        "scales": np.array([1, 1, _INNER / (SIDE - 4), _INNER / (SIDE - 4)], dtype=np.float32),
        "middle": np.array(127, dtype=np.float32),
        "unit": np.array(64, dtype=np.float32),
        **changed,
    }
    node = helper.make_node
    nodes = [
        node("Slice", ["PIXELS", "starts", "ends", "axes"], ["crop"], name="crop"),
        node("Transpose", ["crop"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["wide"], name="wide", to=TensorProto.FLOAT),
        node(
            *("Resize", ["wide", "", "scales"], ["seen"]),
            **{"name": "resize", "mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5},
            coordinate_transformation_mode="half_pixel",
        ),
        node("Sub", ["seen", "middle"], ["centred"], name="centre"),
        node("Div", ["centred", "unit"], ["scaled"], name="scale"),
        node("Conv", ["scaled", "w1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1], group=8),
        node("Add", ["c2", "r1"], ["sum"], name="skip"),
        node("Conv", ["sum", "w3"], ["c3"], name="conv3"),
        node("Relu", ["c3"], ["r3"], name="relu3"),
        node("GlobalAveragePool", ["r3"], ["pooled"], name="pool"),
        node("Flatten", ["pooled"], ["flat"], name="flat", axis=1),
        node("MatMul", ["flat", "w4"], ["LOGITS"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def job(
    folder: Path,
    target: str,
    precision: str = "fp32",
    *,
    model: onnx.ModelProto | None = None,
    more: str = "",
    rows: np.ndarray | None = None,
    **options: Any,
) -> Job:
    """Describe the conversion of such a net, the first of the spec.

    Args:
        folder: Takes the files.
        target: What runs it.
        precision: What it computes in.
        model: The net; None: ``net()``.
        more: Tables of the spec.
        rows: The sample; None: 32 pictures.
        options: More of the job.
    """
    whole = spec(folder, more, precision=f'"{precision}"')
    given = folder / "small.onnx"
    given.write_bytes((model or net()).SerializeToString())
    made = folder / "made"
    made.mkdir(exist_ok=True)
    return Job(
        onnx=given,
        expert=whole.experts[0],
        spec=whole,
        target=target,
        sample=pictures(32) if rows is None else rows,
        folder=made,
        tell=lambda _: None,
        **options,
    )
