"""The README's commands are run, so that they cannot rot."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.readme import with_table

from cascade_builder.demo import photos
from cascade_builder.spec import Spec

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(program):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(program + " ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photo.jpg and photos/ as the README names them."""
    made = tmp_path_factory.mktemp("readme")
    (made / "photos").mkdir()
    for i, path in enumerate(photos.paths()[:4]):
        (made / "photos" / f"{i}{path.suffix}").write_bytes(path.read_bytes())
    rocket = next(path for path in photos.paths() if path.suffix == ".jpg")
    (made / "photo.jpg").write_bytes(rocket.read_bytes())
    return made


def run(line, folder, *extra):
    words = shlex.split(line)
    program = str(Path(sys.executable).parent / words[0])
    done = subprocess.run(
        [program, *extra, *words[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("line", commands("cascade-client"))
def test_client_commands_do_what_they_say(line, server, imagenet, folder):
    """Each one ends well on the real server and prints something."""
    line = line.replace("bench photos/", "bench photos/ --seconds 0.5 --rounds 1")
    out = run(line, folder, "--url", server.grpc_url)

    assert out.strip()
    if "--json" in line:
        json.loads(out)
    if "policy set" in line:
        assert imagenet.policy().default_point == line.split()[-1]
        imagenet.set_point("balanced")


def test_the_builder_command_lays_out_a_repository(folder):
    """The packaged demo is built from what build/ holds."""
    (line,) = commands("cascade-builder")
    (folder / "build").symlink_to(ROOT / "build")

    assert "model_repository is ready" in run(line, folder)
    assert (folder / "model_repository" / "imagenet" / "config.pbtxt").exists()


def test_make_targets_exist():
    """Every make command of the README is a target that `make` lists."""
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {word for word in re.findall(r"make ([a-z-]+)", README)}

    assert {"demo", "test"} <= named <= set(targets)


def test_the_python_example_runs(server, folder, capsys, monkeypatch):
    """The library example prints a label."""
    (code,) = blocks("python")
    monkeypatch.chdir(folder)

    exec(code.replace("localhost:8001", server.grpc_url), {})

    assert capsys.readouterr().out.strip()


def test_the_spec_example_is_a_spec(tmp_path):
    """The cascade.toml of the README is read without complaint."""
    (toml,) = blocks("toml")
    (tmp_path / "photos").mkdir()

    spec = Spec.parse(toml, tmp_path)

    assert [expert.name for expert in spec.experts] == ["small", "large"]
    assert spec.default == "balanced"


def test_the_table_is_made_from_the_results():
    """The README's numbers are those of the newest result files."""
    assert with_table(README) == README
