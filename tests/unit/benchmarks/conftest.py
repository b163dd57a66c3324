"""A cascade of three small experts as a repository serves it."""

import numpy as np
import pytest
from benchmarks.peers import Setup

from cascade_router import Gate, OperatingPoint, Policy, Tier

N_CLASSES = 5
THRESHOLDS = (0.5, 0.7)

_TENSORS = """
name: "toy_{part}"
max_batch_size: 8
backend: "python"
input {{ name: "X" data_type: TYPE_FP32 dims: [{classes}] }}
instance_group {{ count: 2 kind: KIND_CPU }}
dynamic_batching {{ }}
"""

_ROUTER = """
output { name: "SCORES" data_type: TYPE_FP32 dims: [5] }
output { name: "LABEL" data_type: TYPE_INT32 dims: [1] }
output { name: "CONFIDENCE" data_type: TYPE_FP32 dims: [1] }
output { name: "TIER" data_type: TYPE_INT32 dims: [1] }
parameters { key: "ours" value { string_value: "not for peers" } }
"""

_EXPERT = """
output { name: "LOGITS" data_type: TYPE_FP32 dims: [5] }
parameters { key: "intra_op_threads" value { string_value: "3" } }
"""


@pytest.fixture
def policy():
    gates = (*(Gate(threshold=t) for t in THRESHOLDS), Gate())
    return Policy(
        cascade="toy",
        activation="sigmoid",
        n_classes=N_CLASSES,
        tiers=tuple(Tier(name=n, model=f"toy_{n}", digest="sha256:0") for n in ("a", "b", "c")),
        points=(
            OperatingPoint(name="loose", gates=(Gate(threshold=0.1), Gate(threshold=0.1), Gate())),
            OperatingPoint(name="only", gates=gates),
        ),
        default="only",
    )


@pytest.fixture
def repository(tmp_path, policy):
    """Configs and policy, as far as a setup is read from them."""
    for part in ("router", "a", "b", "c"):
        (tmp_path / f"toy_{part}" / "1").mkdir(parents=True)
        text = _TENSORS.format(part=part, classes=N_CLASSES)
        text += _ROUTER if part == "router" else _EXPERT
        (tmp_path / f"toy_{part}" / "config.pbtxt").write_text(text)
    (tmp_path / "toy_router" / "1" / "policy.json").write_text(policy.to_json())
    (tmp_path / "toy_router" / "1" / "manifest.json").write_text('{"cascade": "toy"}')
    return tmp_path


@pytest.fixture
def setup(repository):
    return Setup.read(repository, "toy")


@pytest.fixture
def logits():
    """(K, N, C) float32: three experts on 40 rows, of which one is NaN and one on a threshold."""
    values = np.random.default_rng(7).normal(-1, 1.5, (3, 40, N_CLASSES)).astype(np.float32)
    values[0, 5] = np.nan
    values[0, 6] = [0.0, -9, -9, -9, -9]  # a sigmoid of exactly 0.5
    return values
