import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cascade_builder import export, parity
from cascade_builder.factories import Factory
from cascade_builder.runtime import OnnxExpert
from cascade_builder.sources import FactorySource
from cascade_builder.spec import Expert, Input
from cascade_router.errors import BuildError

FORM = Input(kind="tensor", name="FRAME", dtype="FP32", shape=(8,))
ROWS = np.random.default_rng(7).standard_normal((5, 8)).astype(np.float32)


class Branches(nn.Module):
    """Branches on a value, which no graph can."""

    def forward(self, x: Any) -> Any:
        return x[:, :3] if float(x.sum()) > 0 else -x[:, :3]


class Spoiled(nn.Module):
    """A row's answer depends on its batch mates."""

    def forward(self, x: Any) -> Any:
        return (x - x.mean(dim=0, keepdim=True))[:, :3]


def onnx(module: nn.Module, classes: int = 3) -> bytes:
    return export.onnx_from_torch(
        module.eval(), ROWS, form=FORM, classes=classes, where="expert 'x'"
    )


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def test_an_export_takes_any_batch_and_answers_as_torch(tmp_path: Path) -> None:
    """Traced with two rows, run with one, three and five."""
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx(linear()))
    run = OnnxExpert(path)
    with torch.inference_mode():
        expected = linear()(torch.from_numpy(ROWS)).numpy()
    for n in (1, 3, 5):
        np.testing.assert_allclose(run(ROWS[:n]), expected[:n], atol=1e-5)
    assert parity.check(linear(), run, ROWS, where="x").label_agreement == 1.0


def test_an_export_names_no_file_and_no_metadata_of_this_machine() -> None:
    """Stack traces of the exporter name where Python is installed."""
    data = onnx(linear())
    assert b".py" not in data
    assert b"pkg.torch" not in data


def test_equal_modules_export_to_equal_bytes() -> None:
    """A digest names what an expert computes, not when it was built."""
    assert onnx(linear()) == onnx(linear())


CODE = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from cascade_builder import export
from cascade_builder.spec import Input
import toy_experts
form = Input(kind="tensor", name="FRAME", dtype="FP32", shape=(8,))
data = export.onnx_from_torch(
    toy_experts.net(16), np.stack(toy_experts.rows()), form=form, classes=3, where="x"
)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow  # two fresh processes, each of which imports the exporter
def test_two_processes_export_the_same_bytes(
    tmp_path: Path, write_toy: Callable[[Path], Path]
) -> None:
    """Digests of experts would mean nothing otherwise."""
    write_toy(tmp_path)
    digests = {
        subprocess.run(
            [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=True
        ).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("module", "classes", "says"),
    [
        (nn.Linear(8, 3), 4, r"answers torch.float32 \[2, 3\] for 2 rows"),
        (nn.Linear(7, 3), 3, r"fails on rows float32 \[2, 8\]"),
        (nn.Flatten(0), 3, r"answers torch.float32 \[16\]"),
        (Branches(), 3, "cannot be exported to ONNX"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(module: nn.Module, classes: int, says: str) -> None:
    """The message names the expert, what came and what was expected; never a page of advice."""
    with pytest.raises(BuildError, match=says) as caught:
        onnx(module, classes)
    assert caught.value.message.startswith("expert 'x'")
    assert caught.value.hint is not None
    assert len(caught.value.message) < 400


def test_answers_that_depend_on_batch_mates_fail_parity(tmp_path: Path) -> None:
    """A row must get the same answer alone and in a batch."""
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx(Spoiled()))
    with pytest.raises(BuildError, match="does not answer as torch does"):
        parity.check(Spoiled(), OnnxExpert(path), ROWS, where="x")


@pytest.mark.parametrize("fault", [np.float32(0.5), np.float32("nan")])
def test_wrong_logits_fail_parity(fault: np.float32) -> None:
    """The message carries the numbers."""
    with torch.inference_mode():
        right = linear()(torch.from_numpy(ROWS)).numpy()

    def run(rows: Any) -> Any:
        return right[[int(np.flatnonzero((row == ROWS).all(axis=1))[0]) for row in rows]] + fault

    with pytest.raises(BuildError, match="logits differ by up to"):
        parity.check(linear(), run, ROWS, where="x")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise OSError('no file')", "raised OSError: no file"),
        ("return 3", "returned int, expected a Module"),
        (
            "m = torch.nn.Linear(8, 3); torch.nn.init.constant_(m.bias, float('nan')); return m",
            "the weights 'bias' hold NaN",
        ),
    ],
)
def test_a_factory_that_fails_is_named(body: str, says: str, tmp_path: Path) -> None:
    """With the expert, the factory and what to try."""
    (tmp_path / "bad_experts.py").write_text(f"import torch\n\ndef make():\n    {body}\n")
    factory = Factory("bad_experts", "make", tmp_path)
    with pytest.raises(BuildError, match=says) as caught:
        export.make(Expert(name="small", source=FactorySource(factory=factory)), FORM)
    assert caught.value.message.startswith("expert 'small'")
    assert caught.value.hint is not None
