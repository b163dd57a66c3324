import copy
import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_net import CLASSES, job, pictures
from torch import nn

from cascade_builder import export, targets
from cascade_builder.targets.job import Job
from cascade_router.errors import BuildError

ROWS = pictures(12)


class Net(nn.Module):
    """Pictures to logits: an antialiased resize, a convolution, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pixels: Any) -> Any:
        x = pixels.permute(0, 3, 1, 2).to(torch.float32)
        x = nn.functional.interpolate(x, size=(12, 12), mode="bilinear", antialias=True)
        return self.head(self.layers(x / 64 - 2).flatten(1))


class Branches(Net):
    """A row's value decides what is computed."""

    def forward(self, pixels: Any) -> Any:
        return super().forward(pixels) if float(pixels.sum()) > 0 else -super().forward(pixels)


def net(kind: type[Net] = Net) -> nn.Module:
    torch.manual_seed(0)
    module = kind().eval()
    with torch.no_grad():
        module.head.weight *= 20
    return module


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net's ONNX file."""
    folder = tmp_path_factory.mktemp("graph")
    a_job = job(folder, "torch")
    data = export.onnx_from_torch(
        net(), ROWS, form=a_job.spec.input, classes=CLASSES, where="expert 'small'"
    )
    path = folder / "model.onnx"
    path.write_bytes(data)
    return path


def described(folder: Path, graph: Path, precision: str = "fp32", more: str = "") -> Job:
    a_job = job(folder, "torch", precision, more=more, rows=ROWS)
    return dataclasses.replace(a_job, onnx=graph, module=net())


def converted(a_job: Job) -> targets.Converted:
    return targets.convert(
        *(a_job.onnx, a_job.expert, a_job.spec, "torch", a_job.sample, a_job.folder),
        module=a_job.module,
    )


def opened(a_job: Job) -> Any:
    return targets.runner({"model.pt2": a_job.folder / "model.pt2"}, a_job.expert, "torch")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "bf16"])
def test_a_program_answers_as_the_graph_at_every_batch(
    precision: str, graph: Path, tmp_path: Path
) -> None:
    """Alone and in batches of eight, and the tolerance is in the figures."""
    a_job = described(tmp_path, graph, precision)
    made = converted(a_job)
    assert made.files == ("model.pt2",)
    assert list(made.figures) == ["onnx_to_torch_batch_1", "onnx_to_torch_batch_8"]
    for figures in made.figures.values():
        assert figures["rows"] == len(ROWS)
        assert figures["error"] <= figures["tolerance"]["error"]
    run = opened(a_job)
    logits = run(ROWS[:5])
    assert (logits.dtype, logits.shape) == (np.float32, (5, CLASSES))
    with torch.inference_mode():
        exact = net()(torch.from_numpy(ROWS[:5])).numpy()
    coarse = {"fp32": 1e-4, "tf32": 1e-4, "fp16": 0.02, "bf16": 0.1}[precision]
    np.testing.assert_allclose(logits, exact, atol=coarse * float(exact.std()))
    if precision in ("fp16", "bf16"):
        assert not np.allclose(logits, exact, atol=1e-5 * float(exact.std()))


def test_a_program_tells_nothing_of_this_machine_and_no_row(graph: Path, tmp_path: Path) -> None:
    """Neither paths nor pixels are in it, and the same module gives the same program."""
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        a_job = described(tmp_path / name, graph)
        converted(a_job)
        with zipfile.ZipFile(a_job.folder / "model.pt2") as package:
            contents = {one: package.read(one) for one in package.namelist()}
        for entry, data in contents.items():
            assert b"/tests/" not in data, entry
            assert str(tmp_path).encode() not in data, entry
            assert ROWS[0].tobytes()[:64] not in data, entry
        texts.append(next(data for one, data in contents.items() if one.endswith("model.json")))
    assert texts[0] == texts[1]


def test_compiling_without_a_compiler_is_refused(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is exported."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="compile = true needs a C\\+\\+ compiler"):
        converted(described(tmp_path, graph, more="[torch]\ncompile = true\n"))


def test_a_graph_alone_is_no_module(graph: Path, tmp_path: Path) -> None:
    """An expert given as an ONNX file has nothing to export."""
    a_job = dataclasses.replace(described(tmp_path, graph), module=None)
    with pytest.raises(BuildError, match="needs a torch module, this expert is a graph") as caught:
        converted(a_job)
    assert caught.value.hint is not None
    assert "--target embedded" in caught.value.hint


def test_a_module_that_branches_is_refused_in_one_line(graph: Path, tmp_path: Path) -> None:
    """torch says a page; its first line is kept."""
    a_job = dataclasses.replace(described(tmp_path, graph), module=net(Branches))
    with pytest.raises(
        BuildError, match=r"'small': cannot be exported by torch\.export: "
    ) as caught:
        converted(a_job)
    assert "\n" not in caught.value.message
    assert caught.value.hint == "avoid branches on values; compute every row from that row alone"


def test_a_program_that_answers_otherwise_is_refused(graph: Path, tmp_path: Path) -> None:
    """A planted fault: other weights than the graph's."""
    wrong = copy.deepcopy(net())
    with torch.no_grad():
        wrong.head.bias += torch.linspace(0, 5, CLASSES)  # type: ignore[operator]
    a_job = dataclasses.replace(described(tmp_path, graph), module=wrong)
    with pytest.raises(BuildError, match="torch program at fp32, batches of 1, changed its ans"):
        converted(a_job)


def test_the_module_is_left_as_it_was(graph: Path, tmp_path: Path) -> None:
    """It may be exported once more, for another target."""
    a_job = described(tmp_path, graph, "bf16")
    assert a_job.module is not None
    before = {name: value.clone() for name, value in a_job.module.state_dict().items()}
    converted(a_job)
    after = a_job.module.state_dict()
    assert {name: value.dtype for name, value in after.items()} == {
        name: value.dtype for name, value in before.items()
    }
    assert all(torch.equal(value, before[name]) for name, value in after.items())
