"""Deploying to a running server: it is a stand-in, the files are real."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import toy_onnx
from click.testing import CliRunner
from onnx_files import INPUTS, linear, save, two_layers
from toy_site import MEDIUM, Site

from cascade_builder.cli import main
from cascade_builder.deploy import deploy
from cascade_builder.editions import Edition, previous
from cascade_builder.golden import Golden
from cascade_builder.triton_config import parse
from cascade_router.errors import BuildError, ServerError
from cascade_router.manifest import read_manifest
from cascade_router.policy import Policy
from cascade_router.versions import folder_in_force, version_in_force


def test_a_replaced_expert_lies_beside_and_takes_over(site: Site) -> None:
    """Old and new are both on disk, the new alone is loaded, and nothing else was loaded anew."""
    old = toy_onnx.tree(site.root / "toy_small" / "1")
    site.replace()
    done = site.deploy()

    assert done.action == "deployed"
    assert done.experts == {"small": "replaced", "large": "kept"}
    assert (done.before, done.router, done.versions) == (1, 2, {"small": 2, "large": 1})
    assert done.checked["experts"] == 2
    assert done.checked["answers"] > 0
    assert site.loaded() == {
        "toy": [1],
        "toy_control": [1],
        "toy_small": [2],
        "toy_large": [1],
        "toy_router": [2],
    }
    assert toy_onnx.tree(site.root / "toy_small" / "1") == old
    assert "load toy_large" not in site.server.calls
    site.whole()


def test_a_build_after_a_deployment_has_nothing_to_do(site: Site) -> None:
    """The same spec, and the version in force stays."""
    site.replace()
    site.deploy()
    before = toy_onnx.tree(site.root)

    assert site.build().nothing_done
    assert toy_onnx.tree(site.root) == before
    assert site.deploy().action == "nothing"


def test_the_version_is_loaded_before_the_switch_and_unloaded_after(site: Site) -> None:
    """Expert beside expert, router beside router, the ensemble; then routers before experts."""
    site.replace()
    site.deploy()

    assert site.server.calls == [
        "load toy_control",  # changes nothing: it shows that models may be loaded
        "load toy_small",
        "load toy_router",
        "load toy",
        "load toy_router",
        "load toy_small",
    ]


def test_all_that_knows_the_repository_reads_the_version_in_force(site: Site) -> None:
    """Policy, manifest and golden rows of what is served, wherever it lies."""
    site.replace()
    site.deploy()
    folder = folder_in_force(site.root, "toy")

    assert (version_in_force(site.root, "toy"), folder.name) == (2, "2")
    tiers = Policy.read(folder / "policy.json").tiers
    assert [one["digest"] for one in read_manifest(folder)["experts"]] == [t.digest for t in tiers]
    with np.load(folder / "golden.npz", allow_pickle=False) as file:
        assert set(file.files) == {"rows", "logits_small", "logits_large"}
    golden = Golden.read(folder / "golden.npz")
    assert {name: one.shape for name, one in golden.logits.items()} == {
        "small": (5, 3),
        "large": (5, 3),
    }


def test_an_expert_is_added_and_rolled_back(site: Site) -> None:
    """What only one edition calls is out of Triton's sight while the other is in force."""
    site.add()
    done = site.deploy()
    assert done.experts == {"small": "kept", "medium": "added", "large": "kept"}
    assert site.loaded()["toy_medium"] == [1]
    site.whole()

    assert site.rollback().experts["medium"] == "removed"
    assert "toy_medium" not in site.loaded()
    assert not (site.root / "toy_medium").exists()
    site.whole()

    assert site.rollback().experts["medium"] == "added"
    assert site.loaded()["toy_medium"] == [1]
    site.whole()


def test_an_expert_that_left_the_spec_comes_back_with_a_rollback(site: Site) -> None:
    """Its folder is kept beside the edition that calls it."""
    site.add()
    site.deploy()
    site.edit(MEDIUM, '[[expert]]\nname = "large"\n')

    assert site.deploy().experts == {"small": "kept", "large": "kept", "medium": "removed"}
    assert not (site.root / "toy_medium").exists()
    assert site.rollback().experts["medium"] == "added"
    site.whole()


def test_one_edition_is_kept(site: Site) -> None:
    """Older ones are removed with what only they called."""
    for seed in (1, 2, 3):
        site.replace(seed)
        site.deploy()

    assert sorted(p.name for p in (site.root / "toy_router").glob("[0-9]*")) == ["3", "4"]
    assert sorted(p.name for p in (site.root / "toy_small").glob("[0-9]*")) == ["3", "4"]
    kept = previous(site.root, Edition.in_force(site.root, "toy"))
    assert kept is not None
    assert kept.router == 3


def test_without_an_edition_before_there_is_no_way_back(site: Site) -> None:
    with pytest.raises(BuildError, match="'toy' has no edition before router version 1"):
        site.rollback()


def test_what_two_versions_cannot_differ_in_is_refused(site: Site) -> None:
    """The batch size stands in the config, which all versions of a model share."""
    site.edit("max_batch = 8", "max_batch = 16")
    site.replace()
    before = toy_onnx.tree(site.root)

    with pytest.raises(BuildError, match="differs in max_batch_size"):
        site.deploy()
    assert toy_onnx.tree(site.root) == before


def test_serving_options_are_deployed_too(site: Site) -> None:
    """They decide speed, not answers."""
    site.edit('name = "large"\n', 'name = "large"\ninstances = 2\n')
    done = site.deploy()

    assert done.experts == {"small": "kept", "large": "kept"}
    config = parse((site.root / "toy_large" / "config.pbtxt").read_text())
    assert config.instance_group[0].count == 2
    assert site.build().nothing_done


def instances(site: Site, model: str) -> int:
    """Say how many instances of a model its config asks for."""
    return parse((site.root / model / "config.pbtxt").read_text()).instance_group[0].count


def test_a_rollback_takes_serving_options_back(site: Site) -> None:
    """They are part of an edition, as the versions are; a second rollback brings them again."""
    before = (site.root / "toy_large" / "config.pbtxt").read_bytes()
    site.edit('name = "large"\n', 'name = "large"\ninstances = 2\n')
    site.deploy()

    for count in (1, 2, 1):
        site.rollback()
        assert instances(site, "toy_large") == count
        site.whole()
    assert (site.root / "toy_large" / "config.pbtxt").read_bytes() == before
    assert site.loaded()["toy_large"] == [1]


def test_a_config_that_somebody_changed_is_deployed_again(site: Site) -> None:
    """Though nothing else differs from what the spec asks for."""
    path = site.root / "toy_large" / "config.pbtxt"
    path.write_text(path.read_text().replace("count: 1", "count: 3"))
    assert instances(site, "toy_large") == 3

    assert site.deploy().action == "deployed"
    assert instances(site, "toy_large") == 1
    assert site.deploy().action == "nothing"
    site.whole()


def test_options_of_the_router_belong_to_its_version(site: Site) -> None:
    """The old version goes on with its own while both are loaded."""
    site.edit("[[point]]", "[router]\nabstain_below = 0.6\n\n[[point]]")
    site.deploy()

    options = [
        read_manifest(site.root / "toy_router" / version)["router"].get("abstain_below")
        for version in ("1", "2")
    ]
    assert options == [None, "0.6"]
    assert not parse((site.root / "toy_router" / "config.pbtxt").read_text()).parameters


def test_a_build_over_what_is_served_stops_the_way_back(site: Site) -> None:
    """The version that the kept edition calls holds other weights now."""
    site.edit("[[point]]", "[router]\nabstain_below = 0.6\n\n[[point]]")
    site.deploy()
    site.replace()
    site.build()
    site.server.start()

    with pytest.raises(BuildError, match="version 1 was built over"):
        site.rollback()


def test_what_clients_send_cannot_be_rolled_back(site: Site) -> None:
    """A build that changed it since then changed it for all versions."""
    site.edit("[[point]]", "[router]\nabstain_below = 0.6\n\n[[point]]")
    site.deploy()
    site.edit("max_batch = 8", "max_batch = 16")
    site.build()
    site.server.start()

    with pytest.raises(BuildError, match="differs in max_batch_size"):
        site.rollback()
    site.whole()


def test_a_server_of_another_repository_is_refused(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(site.root, other)
    path = other / "toy_router" / "1" / "manifest.json"
    path.write_text(path.read_text().replace('"embedded"', '"torch"'))

    with pytest.raises(ServerError, match="serves another 'toy'"):
        deploy(site.spec, other, site.server, artifacts_folder=site.folder / "build")


def test_a_repository_of_an_earlier_release_is_named(site: Site) -> None:
    """Its router does not say which versions it calls, so two could mix."""
    path = site.root / "toy_router" / "1" / "manifest.json"
    values = json.loads(path.read_text())
    for expert in values["experts"]:
        del expert["version"]
    path.write_text(json.dumps(values))

    with pytest.raises(BuildError, match="does not say which versions"):
        site.deploy()


@pytest.mark.parametrize("command", [["deploy", "imagenet"], ["rollback", "imagenet"]])
def test_the_commands_report_errors_in_two_lines(command: list[str], tmp_path: Path) -> None:
    """Without a repository there is nothing to deploy into."""
    arguments = [*command, "--repository", str(tmp_path / "none")]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-2].startswith("Error: ")
    assert result.stderr.splitlines()[-1].startswith("help: ")


def test_missing_golden_rows_are_no_traceback(tmp_path: Path) -> None:
    """A repository that lost them is built again."""
    with pytest.raises(BuildError, match="golden rows cannot be read"):
        Golden.read(tmp_path / "golden.npz")


def test_a_router_that_no_golden_row_can_check_is_not_switched_to(site: Site) -> None:
    """Where every row lies at a gate, that no answer is wrong says nothing."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((1024, 1)) / 32 + np.zeros((1, 3))
    large = two_layers(hidden=1024)
    large.graph.initializer[0].CopyFrom(linear(weights=weights).graph.initializer[0])
    save(large, site.folder / "large.onnx")
    small = np.repeat(generator.standard_normal((INPUTS, 1)), 3, axis=1)
    save(linear(weights=small), site.folder / "small.onnx")

    with pytest.raises(BuildError, match="no golden row"):
        site.deploy()
    assert Edition.in_force(site.root, "toy").router == 1


@pytest.mark.parametrize("name", ["../outside", "a/b", "", "toy\n"])
def test_a_rollback_of_what_is_no_name_touches_nothing(site: Site, name: str) -> None:
    """It becomes part of file names, journals of interrupted builds among them."""
    (site.folder / "outside.journal").write_text("{}")
    before = toy_onnx.tree(site.folder)
    arguments = ["rollback", name, "--repository", str(site.root)]
    result = CliRunner().invoke(main, arguments)

    assert result.exit_code == 1
    assert "is no name of a cascade" in result.stderr
    assert toy_onnx.tree(site.folder) == before
