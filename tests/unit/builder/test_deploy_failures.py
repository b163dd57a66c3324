"""A deployment that fails, or is killed, at whatever moment: one edition serves whole."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import toy_onnx
from onnx_files import save, two_layers
from toy_site import Site

from cascade_builder import swap
from cascade_builder.artifacts import written
from cascade_builder.editions import Edition, previous
from cascade_builder.triton_config import parse
from cascade_router.errors import BuildError, ServerError


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


@pytest.mark.parametrize("at", range(2, N_CALLS + 1))
def test_a_deployment_that_is_killed_is_completed_by_the_next(site: Site, at: int) -> None:
    """What it left serves whole, and does not stay."""
    site.replace()
    site.kill(site.deploy, at)
    site.whole()

    site.replace(seed=2)
    done = site.deploy()
    assert done.action == "deployed"
    site.whole()
    kept = previous(site.root, Edition.in_force(site.root, "toy"))
    assert kept is not None
    names = {int(path.name) for path in (site.root / "toy_small").glob("[0-9]*")}
    assert names == {done.versions["small"], kept.experts["toy_small"]}


def test_an_expert_that_was_retired_outlives_a_new_one_that_fails(site: Site) -> None:
    """Of the new one nothing stays in the server's sight, not even a config."""
    site.add()
    site.deploy()
    site.rollback()
    save(two_layers(hidden=512), site.folder / "medium.onnx")
    site.server.broken.add(("toy_medium", 2))

    with pytest.raises(BuildError, match="golden rows"):
        site.deploy()

    assert not (site.root / "toy_medium").exists()
    site.server.start()
    site.whole()
    assert site.rollback().experts["medium"] == "added"
    site.whole()


def test_an_expert_that_was_retired_outlives_a_new_one_whose_deployment_is_killed(
    site: Site,
) -> None:
    """What the dead left under its name is not it."""
    site.add()
    site.deploy()
    site.rollback()
    kept = toy_onnx.tree(site.root / "toy_router" / "2" / "retired" / "toy_medium")
    save(two_layers(hidden=512), site.folder / "medium.onnx")
    site.kill(site.deploy, "load toy_medium")

    assert site.rollback().experts["medium"] == "added"
    assert toy_onnx.tree(site.root / "toy_medium") == kept
    site.whole()


def unplaceable_switch(site: Site) -> None:
    """As an operator switches, let nothing be written where the new router would find it."""
    switch = json.dumps({"default": "half", "changes": []})
    (site.root / "toy_router" / "1" / "switch.json").write_text(switch)
    (site.root / "toy_router" / "2" / "switch.json").mkdir()


def test_a_failure_after_the_ensemble_was_loaded_takes_the_ensemble_back(site: Site) -> None:
    """It must not name a router that is taken out of service."""
    site.replace()

    def fail(n: int) -> None:
        if site.server.calls[-1] == "load toy":
            site.server.fail = lambda n: None
            unplaceable_switch(site)

    site.server.fail = fail
    with pytest.raises(BuildError, match=r"switch\.json: cannot be written"):
        site.deploy()

    site.whole()
    assert Edition.in_force(site.root, "toy").router == 1
    assert site.loaded()["toy_small"] == [1]
    shutil.rmtree(site.root / "toy_router" / "2", ignore_errors=True)
    assert site.deploy().action == "deployed"
    site.whole()


N_WRITES = 14
"""More than the files that a deployment of one expert writes while it talks to the server."""


@pytest.mark.parametrize("how", ["golden rows", "switch"])
@pytest.mark.parametrize("room", range(N_WRITES))
def test_wherever_the_disk_is_full_one_edition_serves_whole(
    site: Site, monkeypatch: pytest.MonkeyPatch, room: int, how: str
) -> None:
    """Going back, too, finds no room; the next command with room leaves nothing behind."""
    site.replace()
    if how == "golden rows":
        site.server.broken.add(("toy_router", 2))
    left = [room]

    def full(path: Path, data: bytes) -> None:
        if left[0] == 0:
            message = f"{path}: cannot be written: no space left on device"
            raise BuildError(message)
        left[0] -= 1
        written(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(swap, "written", full)
        with contextlib.suppress(BuildError):
            site.deploy()
    assert how == "switch" or Edition.in_force(site.root, "toy").router == 1
    site.served()
    site.present()

    site.server.broken.clear()
    site.deploy()
    site.whole()
    assert site.loaded()["toy_small"] == [2]
    assert site.loaded()["toy_router"] in ([2], [3])


def more_instances(site: Site) -> int:
    """Have a spec ask for more instances; says how many the config in force asks for."""
    site.edit('name = "large"\n', 'name = "large"\ninstances = 2\n')
    return instances(site)


def instances(site: Site) -> int:
    config = parse((site.root / "toy_large" / "config.pbtxt").read_text())
    count: int = config.instance_group[0].count
    return count


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_serving_options_of_a_deployment_that_is_killed_are_applied(site: Site, at: int) -> None:
    """By the next command, though no version changes any more."""
    assert more_instances(site) == 1
    site.kill(site.deploy, at)

    site.deploy()
    assert instances(site) == 2
    site.whole()
    assert site.deploy().action == "nothing"


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_serving_options_of_a_rollback_that_is_killed_are_applied(site: Site, at: int) -> None:
    """Those of the edition in force, whichever it is."""
    more_instances(site)
    site.deploy()
    site.server.calls.clear()
    site.kill(site.rollback, at)

    site.deploy()
    assert instances(site) == 2
    site.rollback()
    assert instances(site) == 1
    site.whole()


def test_serving_options_that_were_not_applied_are_forgotten_by_a_build(site: Site) -> None:
    """It writes the configs itself; what a dead deployment wanted must not come back later."""
    more_instances(site)
    site.kill(site.deploy, 5)
    site.edit("instances = 2", "instances = 3")
    site.edit("max_batch = 8", "max_batch = 16")
    site.build()
    assert instances(site) == 3

    site.server.start()
    assert site.deploy().action == "nothing"
    config = parse((site.root / "toy_large" / "config.pbtxt").read_text())
    assert (config.instance_group[0].count, config.max_batch_size) == (3, 16)
    site.whole()


def test_serving_options_that_cannot_be_loaded_do_not_stay(site: Site) -> None:
    """Else the next start of the server fails on them."""
    more_instances(site)

    def fail(n: int) -> None:
        if instances(site) == 2:
            message = "out of memory"
            raise ServerError(message)

    site.server.fail = fail
    with pytest.raises(ServerError, match="out of memory"):
        site.deploy()

    assert instances(site) == 1
    site.whole()
    assert site.rollback().action == "rolled back"
    site.server.fail = lambda n: None
    assert site.deploy().action == "deployed"
    assert instances(site) == 2
    site.whole()
