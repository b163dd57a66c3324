"""What is broken is said in one paragraph with a way out, and the repository stays as it was."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import toy_onnx
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from onnx_files import INPUTS, linear, save

from cascade_builder.cli import main

FACTORY = """
import sys

import torch


def net(weights=None):
    torch.manual_seed(0)
    return torch.nn.Linear(8, 3)


def raises():
    raise OSError(28, "the sky fell")


def leaves():
    sys.exit("I leave")


def spoiled():
    module = net()
    torch.nn.init.constant_(module.bias, float("nan"))
    return module
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    toy_onnx.write(folder)
    (folder / "my_experts.py").write_text(FACTORY)
    done = run(folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def toy(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "toy")
    return tmp_path / "toy"


def run(folder: Path, *more: str) -> Result:
    places = ["--repository", str(folder / "repository"), "--artifacts", str(folder / "build")]
    return CliRunner().invoke(main, ["build", str(folder / "cascade.toml"), *places, *more])


def small(folder: Path, source: str) -> None:
    """Give the first expert another source."""
    path = folder / "cascade.toml"
    path.write_text(path.read_text().replace('onnx = "small.onnx"', source))


def cut_short(folder: Path) -> None:
    path = folder / "small.onnx"
    path.write_bytes(path.read_bytes()[:100])


def corrupt(folder: Path) -> None:
    path = folder / "small.onnx"
    data = path.read_bytes()
    path.write_bytes(data[:20] + b"\xff" * 40 + data[60:])


def gone(folder: Path) -> None:
    (folder / "small.onnx").unlink()


def wrong_shape(folder: Path) -> None:
    save(linear(shape=(9,)), folder / "small.onnx")


def wrong_classes(folder: Path) -> None:
    save(linear(classes=5), folder / "small.onnx")


def fixed_batch(folder: Path) -> None:
    save(linear(batch=1), folder / "small.onnx")


def fixed_inside(folder: Path) -> None:
    to = numpy_helper.from_array(np.array([1, INPUTS]))
    inner = [
        helper.make_node("Constant", [], ["to"], value=to),
        helper.make_node("Reshape", ["flat", "to"], ["ready"]),
    ]
    save(linear(inner=inner), folder / "small.onnx")


def unsupported(folder: Path) -> None:
    inner = [helper.make_node("Frobnicate", ["flat"], ["ready"], domain="com.example")]
    save(linear(inner=inner), folder / "small.onnx")


def nan_weights(folder: Path) -> None:
    save(linear(weights=np.full((INPUTS, 3), np.nan)), folder / "small.onnx")


def nan_answers(folder: Path) -> None:
    save(linear(inner=[helper.make_node("Log", ["flat"], ["ready"])]), folder / "small.onnx")


def wrong_digest(folder: Path) -> None:
    small(folder, f'onnx = "small.onnx"\nsha256 = "{"0" * 64}"')


def factory_that(does: str) -> Callable[[Path], None]:
    return lambda folder: small(folder, f'factory = "my_experts:{does}"')


def broken_module(folder: Path) -> None:
    (folder / "my_experts.py").write_text("def net(:\n")
    small(folder, 'factory = "my_experts:net"')


def no_checkpoint(folder: Path) -> None:
    small(folder, 'factory = "my_experts:net"\nweights = "gone.pth"')


def engine_that_is_none(folder: Path) -> None:
    (folder / "small.engine").write_bytes(b"not an engine at all")
    small(folder, 'engine = "small.engine"')


def engine_of_others(folder: Path) -> None:
    save(linear(classes=5, names=("FRAME", "LOGITS")), folder / "small.engine")
    small(folder, 'engine = "small.engine"')


def served_nowhere(folder: Path) -> None:
    small(folder, 'served = "fleet"\nserver = "127.0.0.1:1"')


def two_sources(folder: Path) -> None:
    small(folder, 'onnx = "small.onnx"\nfactory = "my_experts:net"')


def no_source(folder: Path) -> None:
    small(folder, "")


def no_rows(folder: Path) -> None:
    gone(folder)
    save(linear(weights=np.ones((INPUTS, 3))), folder / "small.onnx")
    for one in (folder / "rows").iterdir():
        one.unlink()


@pytest.mark.parametrize(
    ("spoil", "says", "way_out"),
    [
        (cut_short, "expert 'small': small.onnx: ", "export it again"),
        (corrupt, "expert 'small': small.onnx: ", "export it again"),
        (gone, "expert[0].onnx: there is no file", "relative paths start at"),
        (wrong_shape, "takes FLOAT [N, 9], expected FLOAT [N, 8]", "canonical rows"),
        (wrong_classes, "answers FLOAT [N, 5] as 'y', expected FLOAT [N, 3]", "classes"),
        (fixed_batch, "its batch axis is fixed at 1", "dynamic batch axis"),
        (fixed_inside, "expert 'small': fails on 8 rows", "dynamic batch axis"),
        (unsupported, "Frobnicate", "export it again without them"),
        (nan_weights, "the weights 'w' hold NaN", "another checkpoint"),
        (nan_answers, "answers NaN or infinity on real rows", "not finite"),
        (wrong_digest, "the spec demands sha256:0000", "correct sha256"),
        (factory_that("raises"), "raised OSError: [Errno 28] the sky fell", "`arguments`"),
        (factory_that("leaves"), "raised SystemExit: I leave", "call it in Python"),
        (factory_that("spoiled"), "the weights 'bias' hold NaN", "another checkpoint"),
        (factory_that("nothing"), "the module has no function 'nothing'", "my_experts.py"),
        (broken_module, "my_experts raised SyntaxError", "`arguments`"),
        (no_checkpoint, "expert[0].weights: there is no file", "relative paths start at"),
        (engine_that_is_none, "expert 'small': small.engine cannot be run", "for target embedded"),
        (engine_of_others, "expert 'small': answers [1, 5] for 1 rows", "`classes`"),
        (served_nowhere, "holds no fleet/config.pbtxt, and the server", "--repository"),
        (two_sources, "got 'factory' and 'onnx', expected exactly one of", "one source"),
        (no_source, "got none, expected exactly one of factory, onnx", "one source"),
        (no_rows, "rows: got none from", "real rows"),
    ],
)
def test_a_broken_expert_is_said_so_and_nothing_is_touched(
    spoil: Callable[[Path], None], says: str, way_out: str, toy: Path
) -> None:
    """Whatever is wrong with one expert, the other is not in the way and what is served stays."""
    before = toy_onnx.tree(toy / "repository")
    spoil(toy)
    done = run(toy)
    assert (done.exit_code, done.stdout) == (1, "")
    *told, error, help_ = done.stderr.splitlines()
    assert all(line.startswith("[") for line in told)
    assert error.startswith("Error: ")
    assert says in error
    assert len(error) < 700
    assert help_.startswith("help: ")
    assert way_out in help_
    assert toy_onnx.tree(toy / "repository") == before


def test_what_was_broken_and_is_repaired_builds_what_is_missing(toy: Path) -> None:
    """A failure leaves nothing behind that a later build would take for good."""
    good = (toy / "small.onnx").read_bytes()
    cut_short(toy)
    assert run(toy).exit_code == 1
    (toy / "small.onnx").write_bytes(good)
    done = run(toy)
    assert done.exit_code == 0
    assert "nothing to do" in done.stdout


NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-euc"]


@pytest.fixture(scope="session")
def mounts() -> None:
    """Private mounts, for file systems that are full or read-only."""
    try:
        tried = subprocess.run([*NAMESPACE, "mount -t tmpfs none /mnt"], check=False).returncode
    except FileNotFoundError:
        tried = 1
    if tried:
        pytest.skip("this machine allows no private mounts")


def mounted(folder: Path, setup: str) -> subprocess.CompletedProcess[str]:
    """Build in a namespace of its own after some mounts; then compare the repository."""
    script = f"""
        cp -a repository expected
        {setup}
        status=0
        "$@" || status=$?
        diff -r expected repository
        exit $status
    """
    return toy_onnx.command(folder, prefix=[*NAMESPACE, script, "bash"])


FULL = """
    mkdir was
    cp -a {folder}/. was 2>/dev/null || true
    mount -t tmpfs -o size={size} none {folder}
    cp -a was/. {folder}
    dd if=/dev/zero of={folder}/ballast bs=1k status=none 2>/dev/null || true
    {after}
"""
READ_ONLY = """
    mount --bind {folder} {folder}
    mount -o remount,ro,bind {folder}
"""


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("setup", "says", "way_out"),
    [
        (
            FULL.format(folder="build", size="1m", after=""),
            "No space left on device",
            "make room there",
        ),
        (
            FULL.format(folder="repository", size="4m", after="cp repository/ballast expected/"),
            "the repository cannot be written: [Errno 28] No space left on device",
            "the repository is as it was",
        ),
        (
            READ_ONLY.format(folder="repository"),
            "Read-only file system",
            "check free space and rights",
        ),
        (READ_ONLY.format(folder="build"), "Read-only file system", "rights"),
    ],
    ids=["full build folder", "full repository", "read-only repository", "read-only build folder"],
)
def test_a_disk_that_takes_nothing_is_said_so(
    setup: str, says: str, way_out: str, toy: Path
) -> None:
    """Full or read-only, the folder of built experts or the repository: it is as it was."""
    save(linear(weights=np.ones((INPUTS, 3))), toy / "small.onnx")
    done = mounted(toy, setup)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    error, help_ = done.stderr.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert says in error
    assert way_out in help_
