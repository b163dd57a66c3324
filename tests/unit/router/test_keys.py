"""Keys are read from a file that nobody else may read, and shown nowhere."""

import os
from pathlib import Path

import pytest

from cascade_router.errors import ServerError
from cascade_router.keys import FILE_VARIABLE, Keys
from cascade_router.supervision.command import key_variable

CONTROL, POLICY = "control-key-0123456789", "policy-key-0123456789"


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "keys"
    made.write_text(f'control = "{CONTROL}"\npolicy = "{POLICY}"\n')
    made.chmod(0o600)
    return made


def test_new_keys_are_read_back(tmp_path):
    """For its owner alone, another each time, and an existing file is never overwritten."""
    one, two = Keys.create(tmp_path / "a"), Keys.create(tmp_path / "b")

    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert Keys.read(tmp_path / "a") == one
    assert len({one.control, one.policy, two.control, two.policy}) == 4
    with pytest.raises(ServerError, match="cannot be written"):
        Keys.create(tmp_path / "a")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666])
def test_a_file_that_others_may_read_is_refused(path, mode):
    """The mode is named, and what to do."""
    path.chmod(mode)

    with pytest.raises(ServerError, match=f"mode {mode:04o}") as caught:
        Keys.read(path)
    assert "chmod 600" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret-in-a-broken-file",
        'control = "short"',
        'control = "with spaces and more than twenty"',
        "control = 123456789012345678901234567890",
        f'admin = "{CONTROL}"',
        f'control = ["{CONTROL}"]',
        "\0" * 100,
    ],
)
def test_what_is_no_key_file_is_refused_unquoted(path, text):
    """No message repeats what stands in it."""
    path.write_text(text)

    with pytest.raises(ServerError) as caught:
        Keys.read(path)
    for word in (CONTROL, "secret-in", "short", "with spaces", "1234567"):
        assert word not in str(caught.value)
        assert word not in repr(caught.value.__cause__)


def test_a_pipe_is_no_key_file_and_holds_nobody(path):
    """Reading it would wait for a writer."""
    path.unlink()
    os.mkfifo(path, 0o600)

    with pytest.raises(ServerError, match="is no file"):
        Keys.read(path)


def test_printing_shows_no_key(path):
    """Neither in a log nor in a traceback's locals."""
    assert CONTROL not in repr(Keys.read(path))
    assert POLICY not in str(Keys.read(path))


def test_a_server_needs_both_keys(path):
    """Who may only switch has a file with one."""
    path.write_text(f'policy = "{POLICY}"\n')

    assert Keys.read(path).allows_policy(POLICY)
    with pytest.raises(ServerError, match="no 'control' key"):
        Keys.read(path).check_for_server()


def test_only_the_policy_key_opens_policy(path):
    """Not the other key, not its beginning, not nothing."""
    keys = Keys.read(path)

    assert keys.allows_policy(POLICY)
    for wrong in (None, "", CONTROL, POLICY[:-1], POLICY + "x", "ä" * 20, "\ud800"):
        assert not keys.allows_policy(wrong)
    assert not Keys(control=CONTROL).allows_policy("")


def test_the_control_model_follows_a_link_that_is_turned(path, tmp_path, monkeypatch):
    """So are mounted secrets exchanged; the old folder is then removed."""
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    for folder in (old, new):
        folder.mkdir()
    path.rename(old / "keys")
    link.symlink_to(old)
    monkeypatch.chdir(tmp_path)
    named = Path(key_variable(Path("link/keys"))[FILE_VARIABLE])
    assert named.is_absolute()

    Keys.create(new / "keys")
    link.unlink()
    link.symlink_to(new)
    (old / "keys").unlink()

    assert Keys.read(named) == Keys.read(new / "keys")
