"""Forms of an expert are compared two by two, and the first that differs is named."""

import json
import shutil
from pathlib import Path

import onnx
import pytest
import toy_onnx
from click.testing import CliRunner
from onnx import numpy_helper
from onnx_files import linear, save

from cascade_builder import targets
from cascade_builder.build import build
from cascade_builder.cli import main
from cascade_builder.laid_out import LaidOut
from cascade_builder.manifest import Built, file_digest
from cascade_builder.spec import Spec
from cascade_builder.verification import verify
from cascade_router.errors import BuildError


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The toy cascade of two ONNX files, laid out."""
    folder = tmp_path_factory.mktemp("toy")
    spec = Spec.read(toy_onnx.write(folder))
    build(spec, folder / "repository", artifacts_folder=folder / "build")
    return folder


@pytest.fixture
def toy(built, tmp_path):
    """A copy of it where faults may be planted."""
    return Path(shutil.copytree(built, tmp_path / "toy", dirs_exist_ok=True))


def verified(folder, **options):
    spec = Spec.read(folder / "cascade.toml")
    options = {"serve": False, "artifacts_folder": folder / "build", **options}
    return verify(spec, folder / "repository", **options)


def outcomes(report):
    return {
        one.name: [(step.before, step.after, step.outcome) for step in one.steps]
        for one in report.experts
    }


def forge(folder, name, data):
    """Exchange an expert's file, and let the manifest say that it is the one that was built."""
    path = folder / "repository" / f"toy_{name}" / "1" / "model.onnx"
    path.write_bytes(data)
    manifest = folder / "repository" / "toy_router" / "1" / "manifest.json"
    values = json.loads(manifest.read_text())
    (said,) = (one for one in values["experts"] if one["name"] == name)
    said["digest"] = file_digest(path)
    manifest.write_text(json.dumps(values))


def turned(toy):
    """What is served of the small expert, with its weights turned around."""
    model = onnx.load(toy / "repository" / "toy_small" / "1" / "model.onnx")
    (weights,) = (one for one in model.graph.initializer if len(one.dims) == 2)
    values = -numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    return model.SerializeToString()


def test_what_was_built_is_verified_form_by_form(toy):
    """The file as it came, the graph, the file that is served, and the router's copy of it."""
    report = verified(toy)
    assert report.verified
    assert (report.rows, report.batches) == (5, (1, 5))
    assert outcomes(report) == {
        "small": [
            ("given small.onnx", "ONNX", "same"),
            ("ONNX", "model.onnx", "same"),
            ("model.onnx", "small.onnx in toy_router", "same"),
        ],
        "large": [("given large.onnx", "ONNX", "same"), ("ONNX", "model.onnx", "same")],
    }
    first = report.experts[0].steps[0].as_json()
    assert (first["rows"], first["label_agreement"]) == (5, 1.0)
    assert first["largest_difference"] <= first["tolerance"]["largest_difference"] == 1e-3
    assert report.experts[0].steps[1].why == "the same file, byte for byte"


def test_an_exchanged_file_is_named(toy):
    """What is not the file that was built is not compared at all."""
    path = toy / "repository" / "toy_small" / "1" / "model.onnx"
    path.write_bytes(turned(toy))
    with pytest.raises(BuildError, match=r"toy_small/1/model.onnx is sha256:.*the manifest says"):
        verified(toy)


def test_a_file_that_answers_otherwise_names_its_layer(toy):
    """Even where the manifest was made to fit; the forms before it are as they were."""
    forge(toy, "small", turned(toy))
    report = verified(toy)
    assert outcomes(report)["small"] == [
        ("given small.onnx", "ONNX", "same"),
        ("ONNX", "model.onnx", "differs"),
        ("model.onnx", "small.onnx in toy_router", "differs"),
    ]
    step, _ = report.steps("differs")
    assert step.why.startswith(
        "expert 'small': ONNX to model.onnx changed its answers on 5 real rows: labels agree on"
    )
    assert "the first layer to diverge is MatMul" in step.why
    assert outcomes(report)["large"][-1] == ("ONNX", "model.onnx", "same")


def test_a_file_that_cannot_be_opened_fails_alone(toy):
    """Its neighbours are verified, and what broke is said in one line."""
    forge(toy, "large", b"no ONNX")
    report = verified(toy)
    assert outcomes(report)["large"] == [
        ("given large.onnx", "ONNX", "same"),
        ("ONNX", "model.onnx", "differs"),
    ]
    (step,) = report.steps("differs")
    assert step.why.startswith("expert 'large': model.onnx: ONNX Runtime cannot load it")


def test_a_file_with_other_names_fails_alone(toy):
    """What a runtime raises while it runs is told like every failure."""
    forge(toy, "large", save(linear(), toy / "other.onnx").read_bytes())
    report = verified(toy)
    assert outcomes(report)["large"][-1] == ("ONNX", "model.onnx", "differs")
    (step,) = report.steps("differs")
    assert step.why.startswith("expert 'large': model.onnx fails on 1 rows: [ONNXRuntimeError]")


def test_a_router_with_another_copy_is_named(toy):
    """The first expert runs in the router's process: that copy decides most answers."""
    path = toy / "repository" / "toy_router" / "1" / "experts" / "small.onnx"
    path.write_bytes(turned(toy))
    (step,) = verified(toy).steps("differs")
    assert (step.before, step.after) == ("model.onnx", "small.onnx in toy_router")


def test_without_the_graph_the_file_itself_is_compared(toy):
    """At float32 what is served is the graph; the build folder is not needed."""
    shutil.rmtree(toy / "build")
    assert verified(toy).verified


def test_a_lost_graph_of_a_lower_precision_is_said(toy):
    """Then nothing stands between the file as it came and what is served of it."""
    text = (toy / "cascade.toml").read_text()
    text = text.replace('onnx = "small.onnx"', 'onnx = "small.onnx"\nprecision = "int8"')
    (toy / "cascade.toml").write_text(text)
    build(Spec.read(toy / "cascade.toml"), toy / "repository", artifacts_folder=toy / "build")
    whole = verified(toy)
    assert whole.verified
    assert whole.experts[0].steps[1].comparison.tolerance.error == pytest.approx(0.22)

    shutil.rmtree(toy / "build")
    report = verified(toy)
    assert outcomes(report)["small"] == [
        ("given small.onnx", "ONNX", "not checked"),
        ("given small.onnx", "model.onnx", "same"),
        ("model.onnx", "small.onnx in toy_router", "same"),
    ]
    assert "build again" in report.steps("not checked")[0].why


def test_a_given_file_may_be_called_as_what_is_served(toy):
    """Each form is itself, whatever its file is called."""
    (toy / "small.onnx").rename(toy / "model.onnx")
    text = (toy / "cascade.toml").read_text().replace('"small.onnx"', '"model.onnx"')
    (toy / "cascade.toml").write_text(text)
    build(Spec.read(toy / "cascade.toml"), toy / "repository", artifacts_folder=toy / "build")
    forge(toy, "small", turned(toy))
    assert outcomes(verified(toy))["small"][:2] == [
        ("given model.onnx", "ONNX", "same"),
        ("ONNX", "model.onnx", "differs"),
    ]


def test_a_ready_engine_is_compared_with_itself(toy):
    """Nothing says what it should answer, but alone and in batches it answers alike."""
    engine = toy / "repository" / "toy_small" / "1" / "model.onnx"
    (toy / "ready.onnx").write_bytes(engine.read_bytes())
    text = (toy / "cascade.toml").read_text()
    (toy / "cascade.toml").write_text(text.replace('onnx = "small.onnx"', 'engine = "ready.onnx"'))
    build(Spec.read(toy / "cascade.toml"), toy / "repository", artifacts_folder=toy / "build")
    assert outcomes(verified(toy))["small"] == [
        ("model.onnx, row by row", "in batches", "same"),
        ("model.onnx", "small.onnx in toy_router", "same"),
    ]


def test_torch_is_compared_with_its_graph(write_toy, tmp_path):
    """A module that changed since the build no longer answers as what is served."""
    spec = write_toy(tmp_path)
    text = spec.read_text().replace("width = 8192", "width = 512")
    spec.write_text(text)
    build(Spec.read(spec), tmp_path / "repository", artifacts_folder=tmp_path / "build")
    assert [step.before for step in verified(tmp_path).experts[1].steps] == ["torch", "ONNX"]

    spec.write_text(text.replace('factory = "toy_experts:net"', 'factory = "shifted:net"', 1))
    code = (tmp_path / "toy_experts.py").read_text()
    (tmp_path / "toy_experts.py").write_text(code)
    manifest = tmp_path / "repository" / "toy_router" / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("toy_experts:net", "shifted:net", 1))
    (tmp_path / "shifted.py").write_text(code.replace(".bias += bias", ".bias[0] += 9"))
    (step,) = verified(tmp_path).steps("differs")
    assert step.why.startswith("expert 'small': torch to ONNX changed its answers on 5 real rows")
    assert "training-only" in step.hint


def test_what_cannot_run_here_is_said(toy):
    """An engine for another machine: status 3, and the reason, for people and machines."""
    spec = Spec.read(toy / "cascade.toml")
    engines = []
    for expert in spec.experts:
        path = toy / f"{expert.name}.plan"
        path.write_bytes(expert.name.encode())
        files = {"model.plan": path}
        engines.append(Built(expert=expert, files=files, digest=file_digest(path)))
    golden = toy / "repository" / "toy_router" / "1" / "golden.npz"
    LaidOut.of(spec, "tensorrt", engines, toy / "repository", None, golden).write_out()
    why = targets.why_not("tensorrt")
    assert why is not None

    command = ["verify", str(toy / "cascade.toml"), "--repository", str(toy / "repository")]
    done = CliRunner().invoke(main, [*command, "--artifacts", str(toy / "build")])
    assert done.exit_code == 3
    assert "no server was started: toy_small wants a GPU" in done.output
    assert f"given small.onnx to model.plan: {why}" in done.output


def test_the_command_ends_with_the_error(toy):
    """The table on stdout, the first conversion that differs and what to try on stderr."""
    command = ["verify", str(toy / "cascade.toml"), "--repository", str(toy / "repository")]
    command += ["--artifacts", str(toy / "build"), "--no-server"]
    fine = CliRunner().invoke(main, command)
    assert fine.exit_code == 0
    assert "5 same" in fine.stdout
    assert "tolerance of fp32" in fine.stdout

    forge(toy, "small", turned(toy))
    failed = CliRunner().invoke(main, [*command, "--json"])
    assert failed.exit_code == 1
    report = json.loads(failed.stdout)
    assert not report["verified"]
    assert [step["outcome"] for step in report["experts"][0]["steps"]][:2] == ["same", "differs"]
    assert "Error: expert 'small': ONNX to model.onnx changed its answers" in failed.stderr
    assert "help: build again" in failed.stderr


def test_a_server_that_does_not_answer_is_no_verdict(toy):
    """Who names a server wants it asked."""
    command = ["verify", str(toy / "cascade.toml"), "--repository", str(toy / "repository")]
    done = CliRunner().invoke(main, [*command, "--url", "127.0.0.1:1"])
    assert done.exit_code == 1
    assert "no server answers at 127.0.0.1:1" in done.output
