"""An int8 build is an expert like any other: built, recorded, planned."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_files import save
from onnxruntime.quantization import QuantType
from picture_net import CLASSES, SPEC, net, pictures
from PIL import Image

from cascade_builder.build import BuildReport, build
from cascade_builder.plan import plan
from cascade_builder.record import Source, record
from cascade_builder.records import Records
from cascade_builder.runtime import OnnxExpert
from cascade_builder.spec import Spec

pytestmark = pytest.mark.alone

WIDE = 4096
"""Channels of the larger net, so that its cost stands out."""


def wide_net() -> onnx.ModelProto:
    rng = np.random.default_rng(2)
    w3 = rng.standard_normal((WIDE, 8, 1, 1)).astype(np.float32) / np.float32(np.sqrt(8))
    w4 = rng.standard_normal((WIDE, CLASSES)).astype(np.float32) / np.float32(np.sqrt(WIDE) / 8)
    return net(w3=w3, w4=w4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade whose first expert computes in int8, its rows, and labelled data."""
    folder = tmp_path_factory.mktemp("int8")
    save(net(), folder / "small.onnx")
    save(wide_net(), folder / "large.onnx")
    (folder / "rows").mkdir()
    for i, picture in enumerate(pictures(24)):
        Image.fromarray(picture).save(folder / "rows" / f"{i:02}.png")
    x = pictures(400, seed=3)
    y = OnnxExpert(folder / "large.onnx")(x).argmax(axis=1)
    np.savez(folder / "data.npz", x=x, y=y)
    text = SPEC.replace('factory = "nothing:rows"', 'folder = "rows"')
    text = text.replace('name = "small"\n', 'name = "small"\nprecision = "int8"\n')
    (folder / "cascade.toml").write_text(text)
    return folder


def built(folder: Path) -> BuildReport:
    spec = Spec.read(folder / "cascade.toml")
    return build(spec, folder / "models", artifacts_folder=folder / "build", target="embedded")


def test_it_is_built_recorded_and_planned(folder: Path) -> None:
    """One line of the spec makes it; its own logits and cost decide whether it earns a tier."""
    report = built(folder)
    assert [one.action for one in report.experts] == ["built", "built"]
    served = onnx.load(folder / "models" / "toy_small" / "1" / "model.onnx")
    kinds = {tensor.data_type for tensor in served.graph.initializer}
    assert onnx.TensorProto.INT8 in kinds
    assert QuantType.QUInt8.tensor_type in kinds
    manifest = json.loads((folder / "models" / "toy_router" / "1" / "manifest.json").read_text())
    text = json.dumps(manifest)
    assert '"precision": "int8"' in text
    assert '"onnx_to_int8"' in text

    spec = Spec.read(folder / "cascade.toml")
    out = folder / "records.npz"
    record(spec, Source(path=folder / "data.npz"), folder / "models", out=out)
    records = Records.load(out)
    with np.load(folder / "data.npz") as data:
        direct = OnnxExpert(folder / "models" / "toy_small" / "1" / "model.onnx")(data["x"])
    np.testing.assert_allclose(records.tiers[0].logits, direct, rtol=1e-4, atol=1e-4)

    found = plan(records, {})
    assert found.experts == ["small", "large"]
    assert found.measure == "accuracy"
    assert built(folder).nothing_done


def test_other_rows_make_other_ranges(folder: Path) -> None:
    """Only the int8 expert depends on them."""
    built(folder)
    Image.fromarray(pictures(1, seed=9)[0]).save(folder / "rows" / "99.png")
    report = built(folder)
    assert [one.action for one in report.experts] == ["built", "kept"]
    assert report.experts[0].reason == "rows changed"
