"""What is built again after which change, and what the manifest says it was built from."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_onnx
from onnx_files import INPUTS, linear, save, two_layers

from cascade_builder.build import build
from cascade_builder.build_report import BuildReport, summary
from cascade_builder.digests import Digests
from cascade_builder.sources.source import digest_of_many, files_below
from cascade_builder.spec import Spec
from cascade_router.errors import SpecError
from cascade_router.served import ServedPolicy

FACTORY = """
import json

import torch


def net(weights, scale=1.0):
    with open(weights) as file:
        rows = json.load(file)
    module = torch.nn.Linear(8, 3)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(rows) * scale)
    return module
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_onnx.write(folder)
    run(folder)
    return folder


@pytest.fixture
def toy(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "toy")
    return tmp_path / "toy"


def run(folder: Path, **options: Any) -> BuildReport:
    spec = Spec.read(folder / "cascade.toml")
    artifacts = folder / "build"
    return build(spec, folder / "repository", artifacts_folder=artifacts, **options)


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "cascade.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def actions(report: BuildReport) -> list[str]:
    return [one.action for one in report.experts]


def manifest(folder: Path) -> Any:
    return json.loads((folder / "repository" / "toy_router" / "1" / "manifest.json").read_text())


def touched(folder: Path) -> None:
    os.utime(folder / "small.onnx", ns=(1, 1))


def commented(folder: Path) -> None:
    edit(folder, "[cascade]", "# a comment\n[cascade]")


def other_points(folder: Path) -> None:
    edit(folder, "threshold = 0.5", "threshold = 0.6")


def other_service(folder: Path) -> None:
    edit(folder, 'onnx = "small.onnx"', 'onnx = "small.onnx"\nthreads = 2\ninstances = 2')


def same_elsewhere(folder: Path) -> None:
    shutil.copyfile(folder / "small.onnx", folder / "copy")
    (folder / "small.onnx").unlink()
    (folder / "copy").rename(folder / "small.onnx")


@pytest.mark.parametrize(
    "change", [touched, commented, other_points, other_service, same_elsewhere]
)
def test_what_changes_no_expert_builds_none(change: Callable[[Path], None], toy: Path) -> None:
    """Times, comments, thresholds and how it is served are not what it is."""
    change(toy)
    assert actions(run(toy)) == ["kept", "kept"]


def other_weights(folder: Path) -> None:
    save(linear(weights=np.eye(INPUTS, 3)), folder / "small.onnx")


def other_output(folder: Path) -> None:
    edit(folder, 'onnx = "small.onnx"', 'onnx = "small.onnx"\noutput = "y"')


def other_name(folder: Path) -> None:
    (folder / "small.onnx").rename(folder / "tiny.onnx")
    edit(folder, 'onnx = "small.onnx"', 'onnx = "tiny.onnx"')


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_weights, "weights changed"),
        (other_output, "output changed"),
        (other_name, "onnx changed"),
    ],
)
def test_what_changes_one_expert_builds_that_one(
    change: Callable[[Path], None], reason: str, toy: Path
) -> None:
    """And a dry run says so before, with the reason."""
    change(toy)
    before = toy_onnx.tree(toy)
    dry = run(toy, dry_run=True)
    assert toy_onnx.tree(toy) == before
    wet = run(toy)
    assert actions(dry) == actions(wet) == ["built", "kept"]
    assert dry.experts[0].reason == wet.experts[0].reason == reason
    assert actions(run(toy)) == ["kept", "kept"]


def test_the_spec_of_all_experts_builds_all(toy: Path) -> None:
    """Another canonical input is another graph for each."""
    edit(toy, 'name = "FRAME"', 'name = "ROW"')
    assert actions(run(toy)) == ["built", "built"]


def test_a_copied_folder_builds_from_its_own_files(toy: Path, tmp_path: Path) -> None:
    """What was remembered about the folder it was copied from does not count."""
    shutil.copytree(toy, tmp_path / "copy")
    save(linear(weights=np.eye(INPUTS, 3)), tmp_path / "copy" / "small.onnx")
    assert actions(run(tmp_path / "copy")) == ["built", "kept"]
    assert actions(run(toy)) == ["kept", "kept"]


def test_a_lost_memory_costs_nothing_but_reading(toy: Path) -> None:
    """The state is only a shortcut: without it, or with garbage in it, experts are found again."""
    for text in (None, "", "[]", '{"experts": [], "digests": 3}'):
        state = toy / "build" / "toy" / "state.json"
        state.unlink()
        if text is not None:
            state.write_text(text)
        assert actions(run(toy)) == ["kept", "kept"]


def test_the_manifest_says_what_was_built_from_what(toy: Path) -> None:
    """Source, weights by digest, precision, target, versions, and what was verified."""
    said = manifest(toy)
    small = said["experts"][0]
    digest = hashlib.sha256((toy / "small.onnx").read_bytes()).hexdigest()
    served = (toy / "repository" / "toy_small" / "1" / "model.onnx").read_bytes()
    assert (said["cascade"], said["target"]) == ("toy", "embedded")
    assert small["source"] == {"onnx": "small.onnx"}
    assert small["weights"] == [{"name": "small.onnx", "digest": f"sha256:{digest}"}]
    assert small["digest"] == f"sha256:{hashlib.sha256(served).hexdigest()}"
    assert (small["precision"], small["files"]) == ("fp32", ["model.onnx"])
    assert {"onnx", "onnxruntime"} <= set(small["toolchain"])
    assert small["verified"]["file_to_onnx"]["difference_to_file"] == 0.0
    assert small["verified"]["file_to_onnx"]["label_agreement"] == 1.0
    assert str(toy) not in json.dumps(said)


def test_a_ready_engine_is_served_as_it_is(toy: Path) -> None:
    """For the embedded target that is an ONNX file of our names; its answers are checked."""
    save(linear(names=("FRAME", "LOGITS")), toy / "small.engine")
    edit(toy, 'onnx = "small.onnx"', 'engine = "small.engine"')
    assert actions(run(toy)) == ["built", "kept"]
    served = toy / "repository" / "toy_small" / "1" / "model.onnx"
    assert served.read_bytes() == (toy / "small.engine").read_bytes()
    assert manifest(toy)["experts"][0]["verified"]["rows"] == 8
    assert actions(run(toy)) == ["kept", "kept"]


def test_weights_of_a_factory_are_handed_over_and_watched(toy: Path) -> None:
    """The function gets the path; a change of the file builds the expert again."""
    (toy / "my_experts.py").write_text(FACTORY)
    (toy / "rows.json").write_text(json.dumps(np.eye(3, 8).tolist()))
    edit(toy, 'onnx = "small.onnx"', 'factory = "my_experts:net"\nweights = "rows.json"')
    assert actions(run(toy)) == ["built", "kept"]
    assert manifest(toy)["experts"][0]["source"]["weights"] == "rows.json"
    (toy / "rows.json").write_text(json.dumps((2 * np.eye(3, 8)).tolist()))
    assert run(toy).experts[0].reason == "weights changed"


def test_a_pinned_file_must_be_the_one(toy: Path) -> None:
    """Its digest is compared whenever the file or the pin changes."""
    digest = hashlib.sha256((toy / "small.onnx").read_bytes()).hexdigest()
    edit(toy, 'onnx = "small.onnx"', f'onnx = "small.onnx"\nsha256 = "{digest}"')
    assert actions(run(toy)) == ["kept", "kept"]
    save(linear(weights=np.eye(INPUTS, 3)), toy / "small.onnx")
    with pytest.raises(SpecError, match=f"the spec demands sha256:{digest}"):
        run(toy)


def test_a_policy_is_put_aside_when_an_expert_of_another_source_takes_a_place(toy: Path) -> None:
    """Whatever the source: another digest is another expert, and going back is the first again."""
    before = ServedPolicy(toy / "repository" / "toy_router" / "1").policy
    save(two_layers(hidden=64), toy / "small.onnx")
    report = run(toy)
    assert (report.policy, report.policy_reason) == (
        "replaced",
        "the old one was made for another 'small'",
    )
    after = ServedPolicy(toy / "repository" / "toy_router" / "1").policy
    assert after.tiers[0].digest == report.experts[0].digest != before.tiers[0].digest
    assert after.tiers[1] == before.tiers[1]


def test_an_interrupted_build_is_said_to_be_completed(toy: Path) -> None:
    """By a dry run before, by the build after."""
    (toy / "repository" / ".toy.journal").write_text("{}")
    assert "an interrupted build would be completed first" in summary(run(toy, dry_run=True))
    assert run(toy).completed_interrupted is False  # nothing waited for this journal
    assert not (toy / "repository" / ".toy.journal").exists()


def test_digests_are_taken_once_until_a_file_changes(tmp_path: Path) -> None:
    """By size and time, so that unchanged gigabytes are not read again."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    first = Digests()
    digest = first.of(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(first.used[str(path)]["mtime_ns"],) * 2)
    again = Digests(first.used)
    assert again.untouched(path)
    assert again.of(path) == digest  # believed: same size, same time
    os.utime(path, ns=(1, 1))
    assert not again.untouched(path)
    assert again.of(path) == f"sha256:{hashlib.sha256(b'two').hexdigest()}"


def test_one_file_has_its_own_digest_and_many_have_one(tmp_path: Path) -> None:
    """A folder's covers names and contents; hidden files and order do not count."""
    for name, text in {"a": "1", "b/c": "2", ".git/x": "3"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert files_below(tmp_path) == [tmp_path / "a", tmp_path / "b" / "c"]
    assert files_below(tmp_path / "a") == [tmp_path / "a"]
    assert digest_of_many({"a": "sha256:1"}) == "sha256:1"
    both = digest_of_many({"a": "sha256:1", "b": "sha256:2"})
    assert both == digest_of_many({"b": "sha256:2", "a": "sha256:1"})
    assert both != digest_of_many({"a": "sha256:2", "b": "sha256:1"})
