"""The committed model repository is what the builder writes, and Triton's rules hold for it."""

import subprocess
from pathlib import Path

import pytest
from kept_builds import build_kept

from cascade_builder.checks import check
from cascade_builder.spec import Spec
from cascade_builder.triton_config import parse

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "model_repository"


@pytest.fixture(scope="module")
def tracked():
    """Names of the committed files of the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "model_repository"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {Path(line).relative_to("model_repository") for line in listing.stdout.splitlines()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The repository as the builder writes it today; experts built before are taken from build/."""
    folder = tmp_path_factory.mktemp("models")
    build_kept(Spec.find("imagenet"), folder)
    return folder


def test_committed_text_is_what_the_builder_writes(tracked, written):
    """Every committed file is written again letter for letter, and no generated text is missing."""
    text = {p.relative_to(written) for p in written.rglob("config.pbtxt")}
    text |= {p.relative_to(written) for p in written.rglob("model.py")}

    assert text <= tracked
    for name in sorted(tracked - {Path("README.md")}):
        assert (COMMITTED / name).read_text() == (written / name).read_text(), name


def test_weights_engines_and_machine_facts_are_not_committed(tracked):
    """What is built stays out of the repository's history."""
    assert not [n for n in tracked if n.suffix in {".onnx", ".plan", ".json", ".npz", ".pth"}]


def test_no_rule_is_broken(written):
    """What git keeps lacks what only a build writes; with it, nothing is left to say."""
    missing = {one.rule for one in check([COMMITTED])[1]}
    assert missing <= {"model-file"}
    assert check([written]) == (sorted(path.name for path in written.iterdir()), [])


def test_copied_cores_are_the_source(written):
    """The router beside each model.py is the one in router_backend, file for file."""
    source = ROOT / "router_backend" / "cascade_router"
    copies = sorted(written.glob("*/1/cascade_router"))

    assert len(copies) == 6
    for copy in copies:
        for file in copy.glob("*.py"):
            assert file.read_bytes() == (source / file.name).read_bytes()


def test_configs_keep_the_rules_for_cascades(written):
    """No response cache, own batchers, CPU routers, bounded queues: read back from the text."""
    configs = {p.parent.name: parse(p.read_text()) for p in written.glob("*/config.pbtxt")}

    for name, config in configs.items():
        assert not config.response_cache.enable, name
        assert config.name == name
        batched = name not in {"imagenet", "imagenet_control"}
        assert config.HasField("dynamic_batching") == batched, name
        assert (config.max_batch_size > 0) == (name != "imagenet_control"), name
    router = configs["imagenet_router"]
    assert {group.kind for group in router.instance_group} == {router.instance_group[0].KIND_CPU}
    assert sum(group.count for group in router.instance_group) > 1
    for expert in ("lite0_160", "lite0", "lite2"):
        assert [w.batch_size for w in configs[f"imagenet_{expert}"].model_warmup] == [1, 32]
