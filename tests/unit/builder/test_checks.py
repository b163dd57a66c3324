"""A fault is planted in a laid-out repository, and exactly that is found."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import toy_onnx
from click.testing import CliRunner
from onnx_files import linear, save
from planted import ELSEWHERE_FAULTS, FAULTS, batching, config, group, stray

from cascade_builder.build import build
from cascade_builder.checks import RULES, check
from cascade_builder.cli import main
from cascade_builder.laid_out import LaidOut
from cascade_builder.layout import Model
from cascade_builder.manifest import Built, file_digest
from cascade_builder.spec import Spec
from cascade_builder.targets import TARGETS, main_file
from cascade_router.errors import BuildError

ELSEWHERE = ["onnxruntime", "tensorrt", "tensorrt-rtx", "torch"]


def layout_of(spec, target, folder, root):
    """Say how a cascade lies for a target that may not run here: what is served is any file."""
    built = []
    for expert in spec.experts:
        path = folder / f"{expert.name}-{main_file(target)}"
        path.write_bytes(expert.name.encode())
        files = {main_file(target): path}
        built.append(Built(expert=expert, files=files, digest=file_digest(path)))
    golden = folder / "golden"
    golden.write_bytes(b"any")
    return LaidOut.of(spec, target, built, root, None, golden)


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """A repository per target."""
    folder = tmp_path_factory.mktemp("toy")
    spec = Spec.read(toy_onnx.write(folder))
    build(spec, folder / "embedded", artifacts_folder=folder / "build")
    for target in ELSEWHERE:
        layout_of(spec, target, folder, folder / target).write_out()
    return folder


@pytest.fixture
def repository(laid_out, tmp_path):
    """Copy the repository of a target to where faults may be planted."""

    def copied(target="embedded"):
        return Path(shutil.copytree(laid_out / target, tmp_path / "repository"))

    return copied


def findings(root):
    return [(one.rule, one.model) for one in check([root])[1]]


@pytest.mark.parametrize("target", ["embedded", *ELSEWHERE])
def test_what_the_builder_lays_out_breaks_no_rule(laid_out, target):
    """For no target, those included that cannot run here: not even a warning."""
    assert findings(laid_out / target) == []


def test_every_target_is_laid_out():
    """So that a new one is checked too."""
    assert {"auto", "embedded", *ELSEWHERE} == set(TARGETS)


@pytest.mark.parametrize(
    ("rule", "model", "plant"), FAULTS, ids=[f"{f[0]}-{i}" for i, f in enumerate(FAULTS)]
)
def test_a_planted_fault_is_found(repository, rule, model, plant):
    """It alone, in the model that has it."""
    root = repository()
    plant(root)
    assert set(findings(root)) == {(rule, model)}  # it may show on two sides


@pytest.mark.parametrize(("rule", "target", "change"), ELSEWHERE_FAULTS)
def test_a_planted_fault_is_found_where_it_cannot_run(repository, rule, target, change):
    """Configs for other machines are held against the rules as well."""
    root = repository(target)
    config("toy_large", change)(root)
    assert findings(root) == [(rule, "toy_large")]


def test_every_rule_has_a_planted_fault():
    """And no two rules share a name."""
    names = [rule.name for rule in RULES]
    assert sorted(set(names)) == sorted(names)
    assert {fault[0] for fault in FAULTS + ELSEWHERE_FAULTS} == set(names)


def test_a_file_in_place_of_a_config_is_enough(repository):
    """Triton completes the config of a folder whose files tell the backend."""
    root = repository()
    (root / "bare" / "1").mkdir(parents=True)
    save(linear(), root / "bare" / "1" / "model.onnx")
    assert findings(root) == []


def test_steps_of_an_ensemble_may_stand_in_any_order(repository):
    """Triton connects tensors by name."""
    root = repository()
    chain = """
platform: "ensemble"
max_batch_size: 8
input [ { name: "FRAME", data_type: TYPE_FP32, dims: [ 8 ] } ]
output [ { name: "OUT", data_type: TYPE_FP32, dims: [ 8 ] } ]
ensemble_scheduling {
  step {
    model_name: "same"
    input_map { key: "A" value: "between" }
    output_map { key: "B" value: "OUT" }
  }
  step {
    model_name: "same"
    input_map { key: "A" value: "FRAME" }
    output_map { key: "B" value: "between" }
  }
}
"""
    same = """
backend: "python"
max_batch_size: 8
dynamic_batching { }
input [ { name: "A", data_type: TYPE_FP32, dims: [ 8 ] } ]
output [ { name: "B", data_type: TYPE_FP32, dims: [ 8 ] } ]
"""
    for name, text in {"chain": chain, "same": same}.items():
        (root / name / "1").mkdir(parents=True)
        (root / name / "config.pbtxt").write_text(text)
    (root / "same" / "1" / "model.py").touch()
    assert findings(root) == []


def test_a_step_may_lie_in_another_repository_of_the_server(repository, tmp_path):
    """Two repositories are one to the server that loads both."""
    root = repository()
    shutil.move(root / "toy_router", tmp_path / "beside" / "toy_router")
    assert findings(root) == [("ensemble-models", "toy")]
    assert check([root, tmp_path / "beside"])[1] == []


def test_the_command_tells_what_why_and_what_to_do(repository):
    """Errors end it with status 1; warnings do not; --json says the same to machines."""
    root = repository()
    run = CliRunner().invoke
    clean = run(main, ["check", str(root)])
    assert (clean.exit_code, clean.output) == (0, f"{root}: 5 models, 0 errors, 0 warnings\n")

    config("toy_large", batching(preserve_ordering=True))(root)
    warned = run(main, ["check", str(root)])
    assert (warned.exit_code, warned.output) == (
        0,
        "warning in toy_large (ordering): dynamic_batching.preserve_ordering is set\n"
        "  why: answers wait for those of slower requests before them\n"
        "  help: remove preserve_ordering\n"
        f"{root}: 5 models, 0 errors, 1 warning\n",
    )

    config("toy_large", group(gpus=[0]))(root)
    failed = run(main, ["check", str(root), "--json"])
    report = json.loads(failed.output)
    assert (failed.exit_code, report["errors"], report["warnings"]) == (1, 1, 1)
    assert [one["rule"] for one in report["findings"]] == ["cpu-gpus", "ordering"]


def test_no_repository_is_said_so(tmp_path):
    """A folder without models is nothing to be content with."""
    for folder, said in ((tmp_path / "none", "no such folder"), (tmp_path, "no model repository")):
        done = CliRunner().invoke(main, ["check", str(folder)])
        assert done.exit_code == 1
        assert said in done.output


def test_a_build_lays_out_nothing_that_triton_refuses(laid_out, repository):
    """The rules are asked before a folder takes its place; faults of others are not its own."""
    root = repository()
    stray(root)
    before = toy_onnx.tree(root)
    spec = Spec.read(laid_out / "cascade.toml")
    whole = layout_of(spec, "embedded", laid_out, root)

    def written(kind):
        group = f"instance_group {{ kind: {kind} gpus: 0 }}"
        text = f'name: "toy_large"\nbackend: "python"\n{group}\n'
        model = Model(name="toy_large", files={"config.pbtxt": text.encode(), "1/model.py": b""})
        dataclasses.replace(whole, write=(model,)).write_out()

    with pytest.raises(BuildError, match="toy_large: would break the rule 'cpu-gpus'"):
        written("KIND_CPU")
    assert toy_onnx.tree(root) == before
    written("KIND_GPU")
    assert toy_onnx.tree(root) != before
