"""Cascades of two tiny experts that build in seconds: no package of weights is needed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import toy_onnx
from fake_running import FakeServer
from toy_site import Site

from cascade_builder.build import build
from cascade_builder.spec import Spec

EXPERTS = """
import numpy as np
import torch
from torch import nn


def net(width=4, bias=0.0):
    torch.manual_seed(width)
    module = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))
    with torch.no_grad():
        module[2].bias += bias
    return module.eval()


def rows():
    return list(np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32))


def names():
    return ["low", "middle", "high"]
"""

SPEC = """
[cascade]
name = "toy"
activation = "softmax"
classes = 3
max_batch = 8

[input]
kind = "tensor"
name = "FRAME"
dtype = "FP32"
shape = [8]

[rows]
factory = "toy_experts:rows"

[[expert]]
name = "small"
factory = "toy_experts:net"
arguments = { width = 4 }

[[expert]]
name = "large"
factory = "toy_experts:net"
arguments = { width = 8192 }
threads = 2

[[point]]
name = "fast"
threshold = 0.4

[[point]]
name = "exact"
thresholds = [0.9]
default = true
"""


@pytest.fixture
def spec_text() -> str:
    """Text of a spec that is right; its experts lie in ``toy_experts.py`` beside it."""
    return SPEC


@pytest.fixture(scope="session")
def write_toy() -> Callable[[Path], Path]:
    """Write the toy's spec and experts into a folder; gives the spec's path."""

    def write(folder: Path) -> Path:
        (folder / "toy_experts.py").write_text(EXPERTS)
        path = folder / "cascade.toml"
        path.write_text(SPEC)
        return path

    return write


@pytest.fixture(scope="session")
def built_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a toy of two ONNX files, built."""
    folder = tmp_path_factory.mktemp("toy")
    spec = Spec.read(toy_onnx.write(folder))
    build(spec, folder / "repository", artifacts_folder=folder / "build")
    return folder


@pytest.fixture
def site(built_toy: Path, tmp_path: Path) -> Site:
    """A copy of the built toy, and the server that serves it."""
    shutil.copytree(built_toy, tmp_path / "toy")
    return Site(tmp_path / "toy", FakeServer(tmp_path / "toy" / "repository"))
