"""What a command that failed or was killed leaves: a server starts on it, the next one goes on."""

import shutil
from pathlib import Path

import pytest
import toy_onnx
from toy_site import Killed, Site

from cascade_builder.editions import Edition
from cascade_builder.golden import Golden
from cascade_builder.status_line import progress_lines
from cascade_router.errors import BuildError, ServerError

UNLOADABLE = b"unloadable"
"""At the end of a file: the stand-in refuses it, the builder would not."""


def spoil(site: Site, model: str, version: int) -> bytes:
    """Have a version not be loadable; gives what its file was."""
    path = site.root / model / str(version) / "model.onnx"
    data = path.read_bytes() if path.is_file() else b""
    path.write_bytes(data + UNLOADABLE)
    return data


@pytest.mark.parametrize("at", range(2, 7))
def test_ctrl_c_pressed_twice_removes_nothing_that_is_loaded(site: Site, at: int) -> None:
    """The second while the first goes back; the next command unloads and removes it."""
    site.replace()

    def press(n: int) -> None:
        if n in (at, at + 1):
            raise KeyboardInterrupt

    site.server.fail = press
    with pytest.raises(KeyboardInterrupt):
        site.deploy()

    site.server.fail = lambda n: None
    site.present()
    site.deploy()
    assert site.loaded()["toy_small"] == [2]
    site.whole()


def test_no_config_names_what_failed_to_load_and_could_not_be_cleared(site: Site) -> None:
    """There was no memory for the new version, and none for a copy of the old one in its place."""
    site.replace()

    def fail(n: int) -> None:
        loads = site.server.calls.count("load toy_small")
        if site.server.calls[-1] == "load toy_small" and loads == 1:
            spoil(site, "toy_small", 2)
        elif site.server.calls[-1] == "load toy_small" and loads == 2:
            message = "out of memory"
            raise ServerError(message)

    site.server.fail = fail
    with pytest.raises(ServerError, match="load failed for model 'toy_small'"):
        site.deploy()

    site.server.fail = lambda n: None
    site.server.start()
    site.whole()
    assert site.deploy().action == "deployed"
    site.whole()


def test_a_server_that_cannot_start_is_helped_by_the_next_command(site: Site) -> None:
    """A version that ends every start was loaded when command and server died."""
    site.add()
    site.replace()

    def spoilt(n: int) -> None:
        if site.server.calls[-1] == "load toy_medium":
            spoil(site, "toy_small", 2)
            spoil(site, "toy_medium", 1)
            shutil.copytree(site.root, site.folder / "left")
            raise Killed

    site.server.fail = spoilt
    with pytest.raises(Killed):
        site.deploy()
    shutil.rmtree(site.root)
    (site.folder / "left").rename(site.root)
    site.server.fail = lambda n: None
    with pytest.raises(ServerError, match="load failed"):
        site.server.start()

    site.server.dead = True
    told: list[str] = []
    with pytest.raises(ServerError, match="no server answers"):
        site.rollback(told.append)
    assert "having the config of toy_small name version 1 alone" in told
    assert told[-1].startswith("removed what a killed command left: ")
    assert "toy_medium" in told[-1]

    site.server.start()
    site.whole()
    assert not (site.root / "toy_medium").exists()
    assert site.deploy().action == "deployed"
    site.whole()


def test_a_model_that_is_removed_is_never_half_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that starts just then would end at a folder without a config."""
    site.add()
    site.server.broken.add(("toy_medium", 1))
    whole = shutil.rmtree

    def half(path: Path, ignore_errors: bool = False) -> None:
        config = Path(path) / "config.pbtxt"
        if config.is_file():
            config.unlink()
            raise Killed
        whole(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(Killed):
            site.deploy()

    site.server.start()
    site.whole()
    site.server.broken.clear()
    assert site.deploy().experts["medium"] == "added"
    site.whole()


@pytest.mark.parametrize(("model", "at"), [("toy_small", 3), ("toy_router", 5)])
def test_what_is_laid_in_the_place_of_the_way_back_does_not_stay(
    site: Site, model: str, at: int
) -> None:
    """A version that failed to load is loaded once from other files; it is killed meanwhile."""
    site.replace()
    site.deploy()
    before = toy_onnx.tree(site.root / model / "1")
    data = spoil(site, model, 1)
    site.server.calls.clear()
    site.kill(site.rollback, at)

    assert site.deploy().action == "nothing"
    path = site.root / model / "1" / "model.onnx"
    assert path.read_bytes() == data + UNLOADABLE
    path.write_bytes(data) if data else path.unlink()
    after = toy_onnx.tree(site.root / model / "1")
    assert {name: after[name] for name in before if name != "previous.json"} == {
        name: before[name] for name in before if name != "previous.json"
    }
    assert site.rollback().action == "rolled back"
    assert site.loaded()["toy_small"] == [1]
    site.whole()


def test_a_load_that_outlives_its_command_is_ended(site: Site) -> None:
    """Else the model would be in memory once it is loaded, and of no edition any more."""
    site.add()
    site.kill(site.deploy, "load toy_medium", restart=False)
    site.server.loading.add("toy_medium")
    site.edit('name = "medium"\nonnx = "medium.onnx"\n\n[[expert]]\n', "")

    assert site.deploy().action == "nothing"
    assert "unload toy_medium" in site.server.calls
    assert not (site.root / "toy_medium").exists()


def test_a_build_that_adds_what_was_rolled_back_does_not_stop_the_way_forth(site: Site) -> None:
    """The same expert then lies in the repository and beside the edition that was taken back."""
    site.add()
    site.deploy()
    site.rollback()
    site.build()
    site.server.start()
    assert Edition.in_force(site.root, "toy").experts["toy_medium"] == 1

    assert site.rollback().action == "rolled back"
    assert site.loaded()["toy_medium"] == [1]
    site.whole()
    assert site.rollback().experts["medium"] == "kept"
    site.whole()


def test_a_rollback_that_finds_no_room_leaves_nothing_in_the_servers_sight(site: Site) -> None:
    """What it had put back for it is retired again, and the error is ours."""
    site.add()
    site.deploy()
    site.rollback()
    note = site.root / "toy_router" / "2" / "previous.json"
    note.unlink()
    note.mkdir()  # stands for a disk on which it cannot be written
    before = toy_onnx.tree(site.root)

    with pytest.raises(BuildError, match=r"previous\.json: cannot be written"):
        site.rollback()
    assert toy_onnx.tree(site.root) == before
    assert not (site.root / "toy_medium").exists()
    site.whole()


def test_golden_rows_that_were_lost_with_the_power_are_no_traceback(tmp_path: Path) -> None:
    """A file of no length is what some file systems leave."""
    (tmp_path / "golden.npz").write_bytes(b"")
    with pytest.raises(BuildError, match="golden rows cannot be read"):
        Golden.read(tmp_path / "golden.npz")


def test_a_full_disk_under_the_log_stops_no_deployment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor its way back: what is told is lost, what is done is not."""

    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    progress_lines()("going back")
