"""Every demo expert becomes an engine of TensorRT for RTX, on every machine that runs the tests.

Without a GPU the library's runtime goes this far: it finds its mark, its version and its size in
the file, reads the engine's parts, and then misses the driver. That is what is asserted here; what
the engines answer is not known before one runs. The networks they are built of are compared with
the ONNX files on real rows.
"""

import pytest

from cascade_builder import rows, targets
from cascade_builder.spec import Spec
from cascade_builder.targets.engine import readable

pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")

SPECS = {name: Spec.find(name) for name in ("imagenet", "pitch")}
EXPERTS = [(name, one.name) for name, spec in SPECS.items() for one in spec.experts]


@pytest.fixture(scope="module")
def samples():
    """A few of each demo's own rows."""
    return {
        name: rows.canonical(rows.raw(spec.rows, spec.input.kind, 4), spec.input)
        for name, spec in SPECS.items()
    }


@pytest.mark.parametrize(("cascade", "name"), EXPERTS)
def test_the_engine_of_a_demo_expert_is_built_and_read_back(
    cascade, name, repository, samples, tmp_path
):
    """From the very file that the embedded target serves."""
    spec = SPECS[cascade]
    (expert,) = (one for one in spec.experts if one.name == name)
    onnx = repository / spec.model(name) / "1" / "model.onnx"

    made = targets.convert(onnx, expert, spec, "tensorrt-rtx", samples[cascade], tmp_path)

    data = (tmp_path / made.files[0]).read_bytes()
    assert len(data) > onnx.stat().st_size / 2
    assert readable(data, "tensorrt_rtx") is None
    assert readable(data[:-1], "tensorrt_rtx") is not None
    network = made.figures["onnx_to_network"]
    assert network["error"] <= network["tolerance"]["error"]
    assert network["label_agreement"] == 1.0
