"""A cascade of two tiny experts that builds in seconds: no package of weights is needed."""

from collections.abc import Callable
from pathlib import Path

import pytest

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
