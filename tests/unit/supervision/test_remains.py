"""One server for a repository; what a dead predecessor left is removed, and nothing else."""

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cascade_router.errors import ServerError
from cascade_router.supervision.remains import Claim, clean, holder

MARK = "cascade_serve_0123456789abcdef_"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "claims"


@pytest.fixture
def repository(tmp_path):
    made = tmp_path / "models"
    made.mkdir()
    return made


def pretend(name, folder, *arguments):
    """A process whose executable has that name: it sleeps, and ends when told."""
    program = folder / name
    program.symlink_to("/bin/sh")
    return subprocess.Popen([str(program), "-c", "read line", *arguments], stdin=subprocess.PIPE)


def end(process):
    process.kill()
    process.stdin.close()
    process.wait()


def test_a_second_claim_is_refused_with_the_holder(repository, folder, tmp_path):
    """By whatever path the repository is named; released, it can be claimed again."""
    claim = Claim(repository, folder)
    (tmp_path / "link").symlink_to(repository)

    with pytest.raises(ServerError, match=r"is served already by process \d+"):
        Claim(tmp_path / "link", folder)

    claim.release()
    Claim(repository, folder).release()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder of this user."""
    made = tmp_path / "home"
    made.mkdir()
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(made)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return made


def test_every_session_of_a_user_sees_the_same_claims(repository, home, tmp_path, monkeypatch):
    """Whatever its environment names: a login, a service and a cron job differ in it."""
    claim = Claim(repository)
    for name in ("XDG_RUNTIME_DIR", "HOME", "XDG_CACHE_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))

    with pytest.raises(ServerError, match=f"is served already by process {os.getpid()}"):
        Claim(repository)
    assert holder(repository) == os.getpid()

    assert claim.scratch.is_relative_to(home)
    claim.release()
    assert holder(repository) is None


def test_a_user_without_a_home_has_the_temporary_folder(repository, home, tmp_path, monkeypatch):
    """A service's home may not be there, or not be written to, or have no entry at all."""

    def nobody(_):
        raise KeyError

    for entry in (lambda _: SimpleNamespace(pw_dir="/proc/nowhere"), nobody):
        monkeypatch.setattr(pwd, "getpwuid", entry)
        claim = Claim(repository)
        assert claim.scratch.is_relative_to(tmp_path / "temporary")
        assert holder(repository) == os.getpid()
        claim.release()


def test_a_read_only_repository_can_be_claimed(repository, folder):
    """Nothing is written to it."""
    repository.chmod(0o555)
    claim = Claim(repository, folder)
    assert list(repository.iterdir()) == []
    claim.release()


def test_a_lock_that_was_just_removed_is_not_taken(repository, folder, monkeypatch):
    """Opened before its holder let go, locked after: a third one would not see that."""
    first = Claim(repository, folder)
    opened = os.open

    def open_late(path, flags, mode=0o777):
        handle = opened(path, flags, mode)
        if os.fspath(path).endswith(".lock"):
            monkeypatch.setattr(os, "open", opened)
            first.release()
        return handle

    monkeypatch.setattr(os, "open", open_late)
    second = Claim(repository, folder)

    with pytest.raises(ServerError, match="is served already"):
        Claim(repository, folder)
    second.release()


def test_a_released_claim_leaves_no_file(repository, folder):
    """Repositories come and go."""
    claim = Claim(repository, folder)
    claim.new_mark()
    claim.clean()
    claim.release()

    assert list(folder.iterdir()) == []


def test_a_claim_ends_with_its_process(repository, folder):
    """However it ends: nothing has to be removed by hand."""
    code = (
        "import os, pathlib, sys\n"
        "from cascade_router.supervision.remains import Claim\n"
        "claim = Claim(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))\n"
        "print(claim.new_mark())\n"
        "os._exit(9)\n"
    )
    line = [sys.executable, "-c", code, str(repository), str(folder)]
    mark = subprocess.run(line, capture_output=True, text=True, check=False).stdout.strip()

    claim = Claim(repository, folder)

    assert claim.marks() == [mark]
    claim.release()


def test_only_what_carries_the_mark_is_removed(tmp_path, monkeypatch):
    """Regions and processes of others stay, whatever they are called."""
    memory, programs = tmp_path / "shm", tmp_path / "bin"
    memory.mkdir()
    programs.mkdir()
    other = "cascade_serve_ffffffffffffffff_"
    for name in (f"{MARK}a", f"{MARK}b", f"{other}a", "triton_python_backend_shm_region_1", "x"):
        (memory / name).write_bytes(b"0123")
    server = pretend("tritonserver", programs, f"--x=shm-region-prefix-name={MARK}")
    stub = pretend("triton_python_backend_stub", programs, "m/1/model.py", f"{MARK}a")
    (programs / "more").mkdir()
    foreign = pretend("tritonserver", programs / "more", f"--x={other}")
    reader = pretend("less", programs, f"{MARK}a")
    try:
        done = clean(MARK, memory=memory)

        assert (done.processes, done.regions, done.n_bytes) == (2, 2, 8)
        assert server.wait(5) != 0
        assert stub.wait(5) != 0
        assert foreign.poll() is None
        assert reader.poll() is None
        left = sorted(file.name for file in memory.iterdir())
        assert left == [f"{other}a", "triton_python_backend_shm_region_1", "x"]
    finally:
        for process in (server, stub, foreign, reader):
            end(process)


@pytest.mark.parametrize("mark", ["", "cascade_serve_", "triton_", "cascade_serve_012_", MARK[:-1]])
def test_no_mark_matches_more_than_its_launch(mark, repository, folder):
    """A record that was tampered with does not make us remove what is not ours."""
    claim = Claim(repository, folder)
    claim._write([mark])
    claim.release()
    claim = Claim(repository, folder)

    assert claim.marks() == []
    with pytest.raises(ValueError, match="is no mark"):
        clean(mark)
    claim.release()


def test_a_broken_record_is_no_obstacle(repository, folder):
    """Then nothing is known of predecessors."""
    claim = Claim(repository, folder)
    claim.new_mark()
    claim._record.write_text("{")
    claim.release()
    claim = Claim(repository, folder)

    assert claim.marks() == []
    assert not claim.clean()
    claim.release()


def test_the_folder_must_be_ours_alone(repository, folder):
    """Elsewhere another user could have us remove what he names."""
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)

    with pytest.raises(ServerError, match="not a folder of this user alone"):
        Claim(repository, folder)


def test_scratch_of_a_predecessor_is_emptied(repository, folder):
    """A killed predecessor's links to backends do not pile up."""
    claim = Claim(repository, folder)
    scratch = claim.scratch
    claim.release()
    (scratch / "old").mkdir(parents=True)

    again = Claim(repository, folder)
    assert list(again.scratch.iterdir()) == []
    again.release()
    assert not Path(again.scratch).exists()


def test_a_full_disk_stops_nothing(repository, folder, monkeypatch):
    """The record cannot be written: this launch is cleaned all the same."""
    claim = Claim(repository, folder)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    mark = claim.new_mark()

    assert claim.marks() == [mark]
    assert not claim.clean()
    assert claim.marks() == []
    claim.release()


def test_who_serves_a_repository_can_be_asked(repository, folder):
    """As long as it does, and no longer; asking takes nothing away."""
    assert holder(repository, folder) is None
    claim = Claim(repository, folder)
    assert holder(repository, folder) == os.getpid()
    assert holder(repository, folder) == os.getpid()
    claim.release()

    assert holder(repository, folder) is None
