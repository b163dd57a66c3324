"""Experts made by processes of their own, builds that are interrupted, and builds at once."""

import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toy_onnx
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx_files import INPUTS, linear, save

from cascade_builder.cli import main
from cascade_builder.locks import locked
from cascade_builder.memory import Limits, available_bytes, expected_bytes, turn
from cascade_router.errors import BuildError

FACTORY = """
import os
import signal

import torch


def net(width=4096):
    torch.manual_seed(0)
    layers = torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, 3)
    return torch.nn.Sequential(*layers)


def waits():
    # Tells its process, then reads from a pipe into which nobody may ever write.
    with open("pid", "w") as file:
        file.write(str(os.getpid()))
    with open("told", "w"), open("go"):
        return net()


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def fails():
    raise ValueError("no wings")
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    toy_onnx.write(tmp_path)
    (tmp_path / "my_experts.py").write_text(FACTORY)
    return tmp_path


def large(folder: Path, factory: str) -> None:
    """Let the second expert come from a factory."""
    path = folder / "cascade.toml"
    text = path.read_text().replace('onnx = "large.onnx"', 'factory = "my_experts:net"')
    path.write_text(text.replace("my_experts:net", f"my_experts:{factory}"))


def start(folder: Path) -> subprocess.Popen[str]:
    options = ["build", "cascade.toml", "--repository", "repository", "--jobs", "2"]
    return subprocess.Popen(
        [*toy_onnx.COMMAND, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_side_by_side_builds_what_one_after_the_other_builds(toy: Path) -> None:
    """The same files, byte for byte."""
    shutil.copytree(toy, toy / "other")
    done = toy_onnx.command(toy, "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert toy_onnx.command(toy / "other", "--jobs", "1").returncode == 0
    assert toy_onnx.tree(toy / "repository") == toy_onnx.tree(toy / "other" / "repository")
    told = [line.split("] ", 1)[1] for line in done.stderr.splitlines()]
    assert {"building small: not built yet", "building large: not built yet"} <= set(told)
    assert told[-1] == "writing the repository"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_build_goes_on_where_it_was(how: signal.Signals, toy: Path) -> None:
    """What was made stays made; the process that was at work ends with its parent."""
    large(toy, "waits")
    os.mkfifo(toy / "go")
    os.mkfifo(toy / "told")
    building = start(toy)
    assert building.stderr is not None
    while "built small" not in (line := building.stderr.readline()):
        assert line, "the build ended before it had made anything"
    with (toy / "told").open():  # it is at work once it opens the other end
        worker = os.pidfd_open(int((toy / "pid").read_text()))
    if how == signal.SIGINT:
        os.killpg(building.pid, how)  # as a terminal does
    else:
        building.send_signal(how)
    _, told = building.communicate(timeout=60)
    assert building.returncode != 0
    assert "Traceback" not in told
    assert select.select([worker], [], [], 60)[0] == [worker]
    os.close(worker)
    assert toy_onnx.tree(toy / "repository") == {}

    (toy / "cascade.toml").write_text(toy_onnx.SPEC)
    done = toy_onnx.command(toy)
    assert done.returncode == 0, done.stderr
    assert "expert small: kept (nothing changed)" in done.stdout
    assert "expert large: built" in done.stdout
    left = [one for one in (toy / "build" / "toy").rglob(".*")]
    assert left == []


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("dies", "expert 'large': the process that makes it died: SIGKILL"),
        ("fails", "expert 'large': factory 'my_experts:fails' raised ValueError: no wings"),
    ],
)
def test_one_that_fails_takes_no_other_along(factory: str, says: str, toy: Path) -> None:
    """The other is made all the same, and kept for the next build."""
    large(toy, factory)
    done = toy_onnx.command(toy, "--jobs", "2")
    assert done.returncode == 1
    error, help_ = done.stderr.splitlines()[-2:]
    assert says in error
    assert help_.startswith("help: ")
    assert not (toy / "repository").exists()
    assert len(list((toy / "build" / "toy" / "experts").glob("small-*"))) == 1


@pytest.mark.parametrize("folder", ["build/toy", "repository"])
def test_two_builds_in_one_folder_are_kept_apart(folder: str, toy: Path) -> None:
    """The second says so at once and touches nothing."""
    with locked(toy / folder, "folder", print):
        before = toy_onnx.tree(toy)
        done = toy_onnx.command(toy)
        assert toy_onnx.tree(toy) == before
    assert done.returncode == 1
    error, help_ = done.stderr.splitlines()
    assert f"{folder}: another build is using this" in error
    assert help_ == "help: wait until it has ended, or build into another folder"
    assert toy_onnx.command(toy).returncode == 0


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    """However it ended: the system lets go."""

    def hold(inside: Callable[[], object]) -> None:
        with locked(tmp_path, "folder", print):
            inside()

    with pytest.raises(BuildError, match="another build"):
        hold(lambda: hold(lambda: pytest.fail("two held it")))
    with pytest.raises(ZeroDivisionError):
        hold(lambda: 1 / 0)
    hold(lambda: None)


def kept(folder: Path) -> set[str]:
    return {one.name for one in (folder / "build" / "toy" / "experts").iterdir()}


def test_what_the_last_four_builds_used_stays(toy: Path) -> None:
    """Going back three builds costs nothing; what is older is gone."""
    variants = [np.full((INPUTS, 3), 0.5 + i) + np.arange(3) for i in range(6)]

    def build(i: int) -> str:
        save(linear(weights=variants[i]), toy / "small.onnx")
        places = ["--repository", str(toy / "repository"), "--artifacts", str(toy / "build")]
        done = CliRunner().invoke(main, ["build", str(toy / "cascade.toml"), *places])
        assert done.exit_code == 0, done.stderr
        return done.stdout

    for i in range(6):
        assert "expert small: built" in build(i)
    assert len([name for name in kept(toy) if name.startswith("small")]) == 4
    assert "expert small: kept" in build(2)
    assert "expert small: built" in build(0)
    assert len([name for name in kept(toy) if name.startswith("large")]) == 1


sizes = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 100), min_size=1)


@given(needs=sizes, jobs=st.integers(1, 4), memory=st.integers(1, 150), data=st.data())
def test_no_more_are_made_at_once_than_memory_and_jobs_allow(
    needs: dict[str, int], jobs: int, memory: int, data: st.DataObject
) -> None:
    """All are made, each once, whichever ends first; one too large for memory is made alone."""
    limits = Limits(jobs=jobs, memory_bytes=memory)
    waiting, running, made = list(needs), list[str](), list[str]()
    while waiting or running:
        while name := turn(waiting, running, needs, limits):
            waiting.remove(name)
            running.append(name)
        assert running, "all wait for nobody"
        assert len(running) <= jobs
        assert sum(needs[one] for one in running) <= memory or len(running) == 1
        ended = data.draw(st.sampled_from(sorted(running)))
        running.remove(ended)
        made.append(ended)
    assert sorted(made) == sorted(needs)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 4 kB\n"}, 4096),
        (
            {
                "proc/meminfo": "MemAvailable: 4000 kB\n",
                "sys/fs/cgroup/memory.max": "3000\n",
                "sys/fs/cgroup/memory.current": "1000\n",
            },
            2000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 4 kB\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": "1000\n",
            },
            4096,
        ),
        ({}, 8 * 2**30),
    ],
)
def test_free_memory_is_that_of_the_container(
    files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    """The machine's, or less where a container may use less."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == expected


def test_what_an_expert_took_last_time_is_believed() -> None:
    """Else it is expected to take a multiple of its weights."""
    assert expected_bytes(10**6, before=7) == 7
    assert expected_bytes(10**9, None) > expected_bytes(10**6, None) > 10**9
