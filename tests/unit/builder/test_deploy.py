"""Deploying to a server that may fail at any moment: it is a stand-in, the files are real."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import toy_onnx
from click.testing import CliRunner
from fake_running import FakeServer
from onnx_files import INPUTS, linear, save, two_layers

from cascade_builder.build import build
from cascade_builder.cli import main
from cascade_builder.deploy import Deployment, deploy, rollback
from cascade_builder.editions import Edition, previous
from cascade_builder.golden import Golden
from cascade_builder.running import READY
from cascade_builder.spec import Spec
from cascade_builder.triton_config import parse
from cascade_router.errors import BuildError, PolicyError, ServerError
from cascade_router.manifest import read_manifest
from cascade_router.policy import Policy
from cascade_router.versions import folder_in_force, version_in_force

MEDIUM = """
[[expert]]
name = "medium"
onnx = "medium.onnx"

[[expert]]
name = "large"
"""


@dataclass
class Site:
    """A built toy and the server that serves it."""

    folder: Path
    server: FakeServer

    @property
    def root(self) -> Path:
        return self.folder / "repository"

    @property
    def spec(self) -> Spec:
        return Spec.read(self.folder / "cascade.toml")

    def deploy(self, **options: object) -> Deployment:
        return deploy(
            self.spec, self.root, self.server, artifacts_folder=self.folder / "build", **options
        )

    def rollback(self) -> Deployment:
        return rollback("toy", self.root, self.server)

    def build(self, **options: object) -> object:
        return build(self.spec, self.root, artifacts_folder=self.folder / "build", **options)

    def replace(self, seed: int = 1) -> None:
        """Give the small expert other weights."""
        weights = np.random.default_rng(seed).standard_normal((INPUTS, 3))
        save(linear(weights=weights), self.folder / "small.onnx")

    def edit(self, old: str, new: str) -> None:
        path = self.folder / "cascade.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    def add(self) -> None:
        """Put an expert between the two that there are."""
        save(two_layers(hidden=1024), self.folder / "medium.onnx")
        self.edit('[[expert]]\nname = "large"\n', MEDIUM)

    def loaded(self) -> dict[str, list[int]]:
        """Say which versions answer."""
        found = self.server.states().items()
        out = {m: [v for v, state in versions.items() if state == READY] for m, versions in found}
        return {model: versions for model, versions in out.items() if versions}

    def whole(self) -> None:
        """Every config names versions that are there, and the edition in force is served whole."""
        for path in self.root.glob("*/config.pbtxt"):
            for version in parse(path.read_text()).version_policy.specific.versions:
                assert (path.parent / str(version)).is_dir(), path
        edition = Edition.in_force(self.root, "toy")
        loaded = self.loaded()
        for model, version in edition.models.items():
            assert version in loaded[model], model
        assert self.server.step_version("toy", "toy_router") == edition.router


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    spec = Spec.read(toy_onnx.write(folder))
    build(spec, folder / "repository", artifacts_folder=folder / "build")
    return folder


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Site:
    shutil.copytree(built, tmp_path / "toy")
    return Site(tmp_path / "toy", FakeServer(tmp_path / "toy" / "repository"))


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


@pytest.mark.parametrize("broken", ["toy_small", "toy_router"])
def test_what_answers_golden_rows_wrongly_is_not_switched_to(site: Site, broken: str) -> None:
    """The old edition serves on, and the new one's files are gone."""
    site.replace()
    before = toy_onnx.tree(site.root)
    site.server.broken.add((broken, 2))

    with pytest.raises(BuildError, match="golden rows"):
        site.deploy()

    assert toy_onnx.tree(site.root) == before
    assert site.loaded()[broken] == [1]
    assert "load toy" not in site.server.calls
    site.whole()


def test_an_expert_that_cannot_be_loaded_leaves_the_server_ready(site: Site) -> None:
    """Triton would call itself not ready for good; what failed is loaded once from sound files."""
    site.add()
    site.replace()
    before = toy_onnx.tree(site.root)

    def spoil(n: int) -> None:
        if site.server.calls.count("load toy_medium") == 1:
            (site.root / "toy_medium" / "1" / "model.onnx").write_bytes(b"unloadable")

    site.server.fail = spoil
    with pytest.raises(ServerError, match="load failed for model 'toy_medium'"):
        site.deploy()

    assert toy_onnx.tree(site.root) == before
    assert site.server.ready()
    assert "toy_medium" not in site.loaded()
    site.whole()


N_CALLS = 6
"""Loads of a deployment that replaces one expert."""


@pytest.mark.parametrize("at", range(2, N_CALLS + 1))
def test_whichever_load_fails_one_edition_serves_whole(site: Site, at: int) -> None:
    """Before the switch the old one, and its files are as they were; after it the new one."""
    site.replace()
    before = toy_onnx.tree(site.root)

    def fail(n: int) -> None:
        if n == at:
            message = "out of memory"
            raise ServerError(message)

    site.server.fail = fail
    with pytest.raises(ServerError, match="out of memory"):
        site.deploy()
    site.whole()

    site.server.fail = lambda n: None
    if at <= 4:
        assert toy_onnx.tree(site.root) == before
        assert site.deploy().action == "deployed"
    else:
        assert site.deploy().action == "nothing"
    assert site.loaded()["toy_small"] == [2]
    assert site.loaded()["toy_router"] == [2]


@pytest.mark.parametrize("at", range(1, N_CALLS + 1))
def test_a_server_that_dies_comes_back_with_one_whole_edition(site: Site, at: int) -> None:
    """Whatever the moment: started anew on the repository as it then is, all of it loads."""
    site.replace()

    def die(n: int) -> None:
        if n == at:
            site.server.dead = True
            site.server._alive()

    site.server.fail = die
    with pytest.raises(ServerError):
        site.deploy()

    site.server.fail = lambda n: None
    site.server.start()
    site.whole()
    site.deploy()
    assert site.loaded()["toy_small"] == [2]
    site.whole()


class Killed(BaseException):
    """Stands for SIGKILL: nothing is undone."""


@pytest.mark.parametrize("at", range(2, N_CALLS + 1))
def test_a_deployment_that_is_killed_is_completed_by_the_next(site: Site, at: int) -> None:
    """What it left serves whole, and does not stay."""
    site.replace()

    def kill(n: int) -> None:
        if n == at:
            shutil.copytree(site.root, site.folder / "as_it_was")  # the dead do not clean up
            raise Killed

    site.server.fail = kill
    with pytest.raises(Killed):
        site.deploy()
    shutil.rmtree(site.root)
    (site.folder / "as_it_was").rename(site.root)
    site.server.fail = lambda n: None
    site.server.start()
    site.whole()

    site.replace(seed=2)
    done = site.deploy()
    assert done.action == "deployed"
    site.whole()
    kept = previous(site.root, Edition.in_force(site.root, "toy"))
    assert kept is not None
    names = {int(path.name) for path in (site.root / "toy_small").glob("[0-9]*")}
    assert names == {done.versions["small"], kept.experts["toy_small"]}


def certified(site: Site) -> Policy:
    """Put a policy with a certificate in force."""
    path = folder_in_force(site.root, "toy") / "policy.json"
    policy = Policy.read(path)
    point = dataclasses.replace(policy.points[0], certificate={"promise": "agreement"})
    made = dataclasses.replace(policy, points=(point,), provenance={"made_by": "calibrate"})
    path.write_text(made.to_json())
    return made


def test_a_certificate_is_not_lost_unasked(site: Site) -> None:
    """A policy that is certified for other experts stops a deployment, unless it may."""
    certified(site)
    site.replace()
    before = toy_onnx.tree(site.root)

    with pytest.raises(BuildError, match="certified, and the old one was made for another 'small'"):
        site.deploy()
    assert toy_onnx.tree(site.root) == before

    assert site.deploy(uncertified=True).policy.startswith("replaced")
    site.rollback()
    assert Policy.read(folder_in_force(site.root, "toy") / "policy.json").certified


def test_a_policy_for_the_new_experts_is_brought_along(site: Site, tmp_path: Path) -> None:
    """And one for others is refused."""
    foreign = tmp_path / "foreign.json"
    foreign.write_text(certified(site).to_json())
    site.replace()
    with pytest.raises(PolicyError, match="made for tiers small"):
        site.deploy(policy=foreign)

    build(site.spec, tmp_path / "next", artifacts_folder=site.folder / "build")
    path = folder_in_force(tmp_path / "next", "toy") / "policy.json"
    fitting = dataclasses.replace(Policy.read(path), provenance={"made_by": "calibrate"})
    path.write_text(fitting.to_json())

    assert site.deploy(policy=path).policy.startswith("given")
    served = Policy.read(folder_in_force(site.root, "toy") / "policy.json")
    assert served.provenance == {"made_by": "calibrate"}


def test_the_operators_default_point_survives(site: Site) -> None:
    """Switching experts is no reason to switch the point back."""
    switch = json.dumps({"default": "half", "changes": []})
    (folder_in_force(site.root, "toy") / "switch.json").write_text(switch)
    site.replace()
    site.deploy()

    assert (site.root / "toy_router" / "2" / "switch.json").read_text() == switch


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
