"""The served models are asked themselves: what they answer is what was built, or they are named."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import toy_onnx
from click.testing import CliRunner
from kept_builds import FOLDER
from onnx import numpy_helper

from cascade_builder.build import build
from cascade_builder.cli import main
from cascade_builder.comparison import TOLERANCES
from cascade_builder.manifest import file_digest
from cascade_builder.spec import Spec
from cascade_builder.verification import verify
from cascade_router.serve import Server, free_ports


@pytest.fixture
def toy(tmp_path):
    """A cascade of two small ONNX files, laid out."""
    spec = Spec.read(toy_onnx.write(tmp_path))
    build(spec, tmp_path / "repository", artifacts_folder=tmp_path / "build")
    return tmp_path


def outcomes(report):
    return {one.name: [step.outcome for step in one.steps] for one in report.experts}


def turn(path):
    """Turn the last weights of a served file around."""
    model = onnx.load(path)
    weights = [one for one in model.graph.initializer if len(one.dims) == 2][-1]
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    path.write_bytes(model.SerializeToString())


def test_the_demo_is_verified_from_torch_to_the_server(server, repository):
    """Every expert of the pitch cascade, by the command, on the server that runs."""
    command = ["verify", "pitch", "--repository", str(repository), "--url", server.grpc_url]
    options = ["--artifacts", str(FOLDER), "--rows", "4", "--json"]
    done = CliRunner().invoke(main, [*command, *options])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["verified"]
    for expert in report["experts"]:
        last = expert["steps"][-1]
        assert (last["from"], last["to"]) == ("model.onnx", f"model pitch_{expert['name']}")
        assert last["label_agreement"] == 1.0
        assert last["largest_difference"] <= last["tolerance"]["largest_difference"]
        assert [step["from"] for step in expert["steps"]][:2] == ["torch", "ONNX"]


def test_a_server_of_its_own_serves_what_it_can(toy):
    """One expert's file is broken, though the manifest fits: the other is verified all the same."""
    broken = toy / "repository" / "toy_large" / "1" / "model.onnx"
    broken.write_bytes(broken.read_bytes()[:1000])
    manifest = toy / "repository" / "toy_router" / "1" / "manifest.json"
    values = json.loads(manifest.read_text())
    values["experts"][1]["digest"] = file_digest(broken)
    manifest.write_text(json.dumps(values))

    report = verify(
        Spec.read(toy / "cascade.toml"), toy / "repository", artifacts_folder=toy / "build"
    )
    assert outcomes(report) == {
        "small": ["same", "same", "same", "same"],
        "large": ["same", "differs", "differs"],
    }
    local, served = report.steps("differs")
    assert local.why.startswith("expert 'large': model.onnx: ONNX Runtime cannot load it")
    assert served.why.startswith("expert 'large': the server does not serve toy_large:")
    assert "model.onnx: cannot be opened" in served.why


def test_a_server_that_holds_another_file_is_named(toy):
    """It was started before the repository was built anew, or from a copy: the files are right.

    Two runs of one int8 file are held to less than what int8 may lose.
    """
    text = (toy / "cascade.toml").read_text()
    text = text.replace('onnx = "small.onnx"', 'onnx = "small.onnx"\nprecision = "int8"')
    (toy / "cascade.toml").write_text(text)
    build(Spec.read(toy / "cascade.toml"), toy / "repository", artifacts_folder=toy / "build")
    elsewhere = Path(shutil.copytree(toy / "repository", toy / "elsewhere"))
    turn(elsewhere / "toy_large" / "1" / "model.onnx")
    flags = ["--load-model=toy_small", "--load-model=toy_large"]
    server = Server(repository=elsewhere, ports=free_ports(), flags=flags, log=toy / "server.log")
    with server:
        report = verify(
            Spec.read(toy / "cascade.toml"),
            toy / "repository",
            artifacts_folder=toy / "build",
            url=server.grpc_url,
        )
    assert outcomes(report) == {
        "small": ["same", "same", "same", "same"],
        "large": ["same", "same", "differs"],
    }
    tolerances = [step.comparison and step.comparison.tolerance for step in report.experts[0].steps]
    assert tolerances == [TOLERANCES["fp32"], TOLERANCES["int8"], None, TOLERANCES["fp16"]]
    (step,) = report.steps("differs")
    assert step.why.startswith(
        "expert 'large': model.onnx to model toy_large changed its answers on 5 real rows: labels"
    )
    assert "the server holds another file" in step.hint
