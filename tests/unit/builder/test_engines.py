"""Engines of TensorRT for RTX, which builds them on any machine; nothing here runs one."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from picture_net import SIDE, SPEC, job, net, pictures
from PIL import Image
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

from cascade_builder import targets
from cascade_builder.build import build
from cascade_builder.spec import Spec
from cascade_builder.targets.engine import config_for, readable, use
from cascade_builder.targets.job import Job
from cascade_builder.targets.profiles import verified
from cascade_router.errors import BuildError

pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")


def converted(a_job: Job) -> targets.Converted:
    return targets.convert(
        a_job.onnx, a_job.expert, a_job.spec, a_job.target, a_job.sample, a_job.folder
    )


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"])
def test_every_precision_builds_and_is_read_back(precision: str, tmp_path: Path) -> None:
    """The network is typed, so the library takes it or refuses it; it may not choose."""
    a_job = job(tmp_path, "tensorrt-rtx", precision)
    made = converted(a_job)
    assert made.files == ("model.plan",)
    data = (a_job.folder / "model.plan").read_bytes()
    assert readable(data, "tensorrt_rtx") is None
    assert made.figures["onnx_to_network"]["rows"] == 32
    assert "onnx_to_engine" in made.figures
    json.dumps(made.figures)


def test_what_is_no_engine_is_told_from_one_that_lacks_a_gpu(tmp_path: Path) -> None:
    """The library checks mark, version, size and structure before it asks for the driver."""
    a_job = job(tmp_path, "tensorrt-rtx")
    converted(a_job)
    data = (a_job.folder / "model.plan").read_bytes()
    assert readable(data, "tensorrt_rtx") is None
    broken = {
        "cut": data[:-1],
        "half": data[: len(data) // 2],
        "foreign": b"x" * 1000,
        "empty": b"",
        "headless": b"\0" * 64 + data[64:],
        "longer": data + b"\0",
    }
    assert [name for name, one in broken.items() if readable(one, "tensorrt_rtx") is None] == []


def test_options_reach_the_builder(tmp_path: Path) -> None:
    """As the library reads them back: workspace, kinds of GPU, profiles."""
    tables = """
[tensorrt]
workspace_mb = 64
compute_capabilities = ["8.9", "12.0"]
profiles = [{ min = 1, opt = 1, max = 1 }, { min = 1, opt = 4, max = 8 }]
"""
    trt = use("tensorrt_rtx")
    from polygraphy.backend.trt import create_network  # it asks which library it is for

    builder, network = create_network(strongly_typed=True)
    network.add_input("PIXELS", trt.uint8, (-1, SIDE, SIDE, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Polygraphy's, of the library
        config = config_for(job(tmp_path, "tensorrt-rtx", more=tables), trt)(builder, network)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    kinds = [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)]
    assert kinds == [trt.ComputeCapability.SM89, trt.ComputeCapability.SM120]
    assert config.num_optimization_profiles == 2


def test_an_engine_with_several_profiles_is_built(tmp_path: Path) -> None:
    """It holds tactics for each, and is read back."""
    profiles = "profiles = [{ min = 1, opt = 1, max = 1 }, { min = 1, opt = 8, max = 8 }]"
    a_job = job(tmp_path, "tensorrt-rtx", more=f"[tensorrt]\n{profiles}\n")
    converted(a_job)
    assert readable((a_job.folder / "model.plan").read_bytes(), "tensorrt_rtx") is None


def test_what_a_gpu_cannot_do_is_said_in_the_librarys_words(tmp_path: Path) -> None:
    """Turing is built for where it is named, and has no float32 products."""
    table = '[tensorrt]\ncompute_capabilities = ["7.5"]\n'
    with pytest.raises(BuildError, match=r"does not build it: .*Turing \(SM75\)"):
        converted(job(tmp_path, "tensorrt-rtx", more=table))


def test_an_operator_that_the_library_lacks_is_named(tmp_path: Path) -> None:
    """The parser's own words, with the node."""
    model = net()
    relu = next(node for node in model.graph.node if node.name == "relu3")
    relu.op_type, relu.domain = "FusedMatMul", "com.microsoft"
    eye = numpy_helper.from_array(np.eye(SIDE // 2, dtype=np.float32), "eye")
    model.graph.initializer.append(eye)
    relu.input.append("eye")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(BuildError) as caught:
        converted(job(tmp_path, "tensorrt-rtx", model=model))
    said = caught.value.message
    assert said.startswith("expert 'small': tensorrt_rtx does not build it: FusedMatMul relu3: ")
    assert caught.value.hint is not None
    assert "--target embedded or torch" in caught.value.hint


def test_one_process_uses_one_of_the_libraries() -> None:
    """Polygraphy decides between them when it is imported."""
    use("tensorrt_rtx")
    with pytest.raises(BuildError) as caught:
        use("tensorrt")
    assert "tensorrt" in caught.value.message


def test_reading_an_engine_back_needs_nothing_before_it(tmp_path: Path) -> None:
    """In a fresh process, it chooses the library itself."""
    a_job = job(tmp_path, "tensorrt-rtx")
    converted(a_job)
    code = (
        "import sys, pathlib; from cascade_builder.targets.engine import readable; "
        "print(readable(pathlib.Path(sys.argv[1]).read_bytes(), 'tensorrt_rtx'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, a_job.folder / "model.plan"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"


def runner_of(model: onnx.ModelProto, folder: Path, seen: list[int]) -> Any:
    """What stands for an engine: another graph in Polygraphy's runner."""
    path = folder / "engine.onnx"
    path.write_bytes(model.SerializeToString())

    def opened(profile: int) -> OnnxrtRunner:
        seen.append(profile)
        return OnnxrtRunner(SessionFromOnnx(str(path)), name="engine")

    return opened


PROFILES = """
[tensorrt]
profiles = [{ min = 1, opt = 1, max = 4 }, { min = 5, opt = 8, max = 8 }]
"""


def test_an_engine_is_compared_at_each_of_its_profiles(tmp_path: Path) -> None:
    """On all rows of the sample, though they fill no batch."""
    seen: list[int] = []
    a_job = job(tmp_path, "tensorrt", more=PROFILES, rows=pictures(7))
    figures = verified(a_job, runner_of(net(), tmp_path, seen))
    assert seen == [0, 1]
    assert list(figures) == ["onnx_to_engine_profile_0", "onnx_to_engine_profile_1"]
    assert {one["rows"] for one in figures.values()} == {7}
    assert {one["error"] for one in figures.values()} == {0.0}


def test_an_engine_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    """A planted fault; the profile is named where there are several."""
    wrong = net(middle=np.array(120, dtype=np.float32))
    with pytest.raises(BuildError, match=r"expert 'small': ONNX to engine at fp32, profile 0 ch"):
        verified(job(tmp_path, "tensorrt", more=PROFILES), runner_of(wrong, tmp_path, []))
    with pytest.raises(BuildError, match=r"expert 'small': ONNX to engine at fp32 changed its"):
        verified(job(tmp_path, "tensorrt"), runner_of(wrong, tmp_path, []))


def test_a_ready_engine_is_laid_out_if_it_is_one(tmp_path: Path) -> None:
    """What cannot run here is read back at least, before anything is laid out."""
    a_job = job(tmp_path, "tensorrt-rtx")
    converted(a_job)
    (a_job.folder / "model.plan").rename(tmp_path / "good.plan")
    (tmp_path / "bad.plan").write_bytes((tmp_path / "good.plan").read_bytes()[:-1])
    (tmp_path / "rows").mkdir()
    Image.fromarray(pictures(1)[0]).save(tmp_path / "rows" / "0.png")
    text = SPEC.replace('factory = "nothing:rows"', 'folder = "rows"')
    text = text.replace('onnx = "small.onnx"', 'engine = "good.plan"')

    def built(second: str) -> Any:
        spec = Spec.parse(text.replace('onnx = "large.onnx"', f'engine = "{second}"'), tmp_path)
        folders = tmp_path / "models", tmp_path / "build"
        return build(spec, folders[0], artifacts_folder=folders[1], target="tensorrt-rtx")

    with pytest.raises(BuildError, match=r"'large': bad\.plan cannot be run: .*Serialization"):
        built("bad.plan")
    assert not (tmp_path / "models" / "toy_small").exists()

    report = built("good.plan")
    if targets.why_not("tensorrt-rtx") is not None:
        assert report.experts[0].unverified == targets.why_not("tensorrt-rtx")
    laid_out = tmp_path / "models" / "toy_large" / "1"
    assert (laid_out / "model.plan").read_bytes() == (tmp_path / "good.plan").read_bytes()
    assert "tensorrt_expert" in (laid_out / "model.py").read_text()
