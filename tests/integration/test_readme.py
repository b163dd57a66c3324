"""The README's commands are run, so that they cannot rot."""

import dataclasses
import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_onnx
from benchmarks.readme import with_table
from onnx_files import INPUTS, linear, save
from PIL import Image

from cascade_builder import sources
from cascade_builder.build import build
from cascade_builder.comparison import TOLERANCES
from cascade_builder.demo import photos
from cascade_builder.spec import Spec
from cascade_builder.targets.options import PRECISIONS, Engine, Program, Serving
from cascade_router import Policy
from cascade_router.serve import Server, free_ports

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TARGETS = "cascade_builder.targets"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(program):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.startswith(program + " ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """photo.jpg and photos/ as the README names them: 160 cuttings of the bundled photos."""
    made = tmp_path_factory.mktemp("readme")
    (made / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(160):
        with Image.open(photos.paths()[i % 8]) as whole:
            side = int(min(whole.size) * rng.uniform(0.5, 1))
            left, top = (int(rng.integers(0, length - side + 1)) for length in whole.size)
            part = whole.convert("RGB").crop((left, top, left + side, top + side))
        part.resize((256, 256)).save(made / "photos" / f"{i:03}.jpg")
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


KEYED = [line for line in commands("cascade-client") if "--keys" in line]


@pytest.mark.alone
@pytest.mark.parametrize("line", [line for line in commands("cascade-client") if line not in KEYED])
def test_client_commands_do_what_they_say(line, server, imagenet, folder):
    """Each one ends well on the real server and prints something."""
    line = line.replace("bench photos/", "bench photos/ --seconds 0.5 --rounds 1")
    quick = "sweep photos/ --point fast --seconds 0.5 --tolerance 0.5"
    line = line.replace("sweep photos/", quick)
    out = run(line, folder, "--url", server.grpc_url)

    assert out.strip()
    if "--json" in line:
        json.loads(out)
    if "policy set" in line:
        assert imagenet.policy().default_point == line.split()[-1]
        imagenet.set_point("balanced")


@pytest.mark.alone
def test_the_builder_commands_build_verify_record_and_calibrate(folder):
    """From a packaged spec to a repository with a certified policy, without a label."""
    built = folder / "build" / "imagenet"
    for name in ("graphs", "experts"):
        shutil.copytree(ROOT / "build" / "imagenet" / name, built / name)
    about = ("imagenet", "model_repository")
    lines = [line for line in commands("cascade-builder") if line.split()[2] in about]
    build, record, calibrate, check, verify = lines

    assert "model_repository is ready" in run(build, folder)
    assert "7 models, 0 errors, 0 warnings" in run(check, folder)
    assert "model_repository: 10 same" in run(verify, folder)
    assert "160" in run(record, folder)
    assert "Promises hold together" in run(calibrate, folder)
    policy = folder / "model_repository" / "imagenet_router" / "1" / "policy.json"
    assert Policy.read(policy).certified
    assert (folder / "build" / "imagenet" / "report" / "report.html").stat().st_size > 10_000


def test_the_builder_commands_deploy_and_roll_back(tmp_path):
    """A cascade named as in the README is brought to what its spec says now, and back."""
    spec = toy_onnx.write(tmp_path)
    spec.write_text(spec.read_text().replace('name = "toy"', 'name = "birds"'))
    models = tmp_path / "model_repository"
    build(Spec.read(spec), models, artifacts_folder=tmp_path / "build")
    lines = commands("cascade-builder")
    replace, back = (line for line in lines if line.split()[1] in ("deploy", "rollback"))
    weights = np.random.default_rng(1).standard_normal((INPUTS, 3))

    with Server(repository=models, ports=free_ports(), log=tmp_path / "log") as running:
        save(linear(weights=weights), tmp_path / "small.onnx")
        said = run(f"{replace} --url {running.grpc_url}", tmp_path)
        report = json.loads(run(f"{back} --url {running.grpc_url} --json", tmp_path))

    assert "expert small: replaced, version 2" in said
    assert (report["action"], report["router"], report["versions"]["small"]) == (
        "rolled back",
        1,
        1,
    )


def test_make_targets_exist():
    """Every make command of the README is a target that `make` lists."""
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))

    assert {"demo", "test"} <= named <= set(targets)


def test_the_python_example_runs(server, folder, capsys, monkeypatch):
    """The library example prints a label."""
    (code,) = blocks("python")
    monkeypatch.chdir(folder)

    exec(code.replace("localhost:8001", server.grpc_url), {})

    assert capsys.readouterr().out.strip()


def test_the_spec_example_is_a_spec(tmp_path):
    """The cascade.toml of the README is read without complaint."""
    toml, *_ = blocks("toml")
    (tmp_path / "photos").mkdir()

    spec = Spec.parse(toml, tmp_path)

    assert [expert.name for expert in spec.experts] == ["small", "large"]
    assert spec.default == "balanced"


def test_every_source_of_an_expert_is_shown(tmp_path):
    """The README's expert tables are read where the files that they name are there."""
    spec, experts, _ = blocks("toml")
    (tmp_path / "photos").mkdir()
    (tmp_path / "mobilenet_v2").mkdir()
    files = ["small.safetensors", "small.onnx", "mobilenet.safetensors", "large.plan"]
    for name in [*files, "mobilenet_v2/config.json"]:
        (tmp_path / name).touch()
    head, _, rest = spec.partition("[[expert]]")
    points = rest[rest.index("[[point]]") :]

    read = Spec.parse(head + experts + points, tmp_path)

    assert [expert.source.kind for expert in read.experts] == sources.KINDS


def test_every_option_of_a_target_is_shown(tmp_path):
    """The README's options are read as part of the demo's spec, and are all that there are."""
    *_, options = blocks("toml")
    demo = (ROOT / "builder" / "cascade_builder" / "demo" / "imagenet.toml").read_text()

    read = Spec.parse(demo + options, tmp_path)

    assert [expert.precision for expert in read.experts] == ["fp32", "fp32", "fp32", "int8"]
    for kind in (Engine, Program, Serving):
        for field in dataclasses.fields(kind):
            assert re.search(rf"^{field.name} = ", options, re.MULTILINE), field.name


def test_the_precisions_shown_are_those_that_targets_take():
    """The README's table of precisions and tolerances, row by row."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\| ([^|]*) \|$", README, re.MULTILINE)
    shown = {name: (cells, limits) for name, cells, limits in rows if name in PRECISIONS}
    assert list(shown) == PRECISIONS
    for name, (cells, limits) in shown.items():
        marked = [cell.strip() == "yes" for cell in cells.split("|")]
        columns = [["embedded"], ["onnxruntime"], ["tensorrt", "tensorrt-rtx"], ["torch"]]
        for mark, targets in zip(marked, columns, strict=True):
            modules = [importlib.import_module(f"{TARGETS}.{t.replace('-', '_')}") for t in targets]
            assert {module.refuses(name) is None for module in modules} == {mark}, (name, targets)
        error, drift, labels = limits.split(", ")
        tolerance = TOLERANCES[name]
        assert (float(error), float(drift)) == (tolerance.error, tolerance.score_drift)
        allowed = round(100 * (1 - tolerance.label_agreement))
        assert labels == (f"{allowed} %" if allowed else "ties only")


def test_the_table_is_made_from_the_results():
    """The README's numbers are those of the newest result files."""
    assert with_table(README) == README
