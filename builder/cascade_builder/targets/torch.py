"""``torch``: a ``torch.export`` program in the Python backend, on a machine with nothing but torch.

The program moves to the device it is served on; one that is compiled ([torch] compile = true) is
quicker there and runs on the kind of machine that compiled it alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_router.errors import BuildError

from .hardware import gpus
from .identity import code, module_there, versions
from .job import Converted, Job, Runner

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.spec import Expert, Spec

    from .options import Engine

__all__ = [
    "MAIN_FILE",
    "convert",
    "refuses",
    "refuses_options",
    "runner",
    "toolchain",
    "why_not",
]

MAIN_FILE = "model.pt2"

_BATCHES = (1, 8)
_LINE = 300
_NEEDED = {"val", "tensor_meta"}
"""What a saved step must say beside what it does: the types of its results."""


def refuses(precision: str) -> str | None:
    """Say why it does not compute in a precision; None: it does."""
    if precision in ("int8", "fp8"):
        return "a program of PyTorch's own operators has none; ONNX Runtime and TensorRT do"
    return None


def refuses_options(options: Engine) -> str | None:
    """Say which option of ``[tensorrt]`` it does not know: they are for other targets."""
    del options
    return None


def toolchain(expert: Expert, spec: Spec) -> dict[str, str]:
    """Say what a program depends on; one that is compiled, the GPU as well."""
    del expert
    found = versions("torch", "onnxruntime", extra="build") | code("comparison", "targets/torch")
    devices = gpus() if spec.program.compile else ()
    return found | ({"compute_capability": devices[0].capability} if devices else {})


def convert(job: Job) -> Converted:
    """Write ``model.pt2`` and compare it, opened as it is served, with the ONNX file.

    Raises:
        BuildError: If the expert is no torch module, cannot be exported, or answers otherwise.
    """
    from cascade_builder.comparison import require
    from cascade_builder.runtime import OnnxExpert

    if job.module is None:
        message = f"{job.where}: target torch needs a torch module, this expert is a graph"
        raise BuildError(message, hint="choose --target embedded, or give the module's factory")
    job.tell("torch program")
    path = job.folder / MAIN_FILE
    _write(job.module, job, path)
    run = runner({MAIN_FILE: path}, job.expert)
    expected = OnnxExpert(job.onnx)(job.sample)
    figures = {}
    for size in _BATCHES:
        comparison = job.compared(expected, _by(size, run, job))
        require(
            comparison,
            where=job.where,
            step=f"torch program at {job.expert.precision}, batches of {size},",
            hint="use fp32; or look for operators that mix rows or draw at random",
        )
        figures[f"onnx_to_torch_batch_{size}"] = comparison.as_json()
    return Converted(files=(MAIN_FILE,), figures=figures)


def why_not() -> str | None:
    """Say why it cannot run here; None: it can."""
    return None if module_there("torch") else "the package torch is not installed"


def runner(files: Mapping[str, Path], expert: Expert) -> Runner:
    """Open the program as it is served: on the first GPU, if there is one that torch can use."""
    from cascade_router.torch_expert import runner as opened

    path, precision = files[MAIN_FILE], expert.precision
    return opened(path, expert.threads, precision=precision, device=_device())


def _write(module: nn.Module, job: Job, path: Path) -> None:
    """Export a module and save the program, compiled if that is wanted."""
    import copy

    import numpy as np
    import torch

    from cascade_builder.spec import DTYPES

    if job.spec.program.compile and shutil.which(os.environ.get("CXX", "g++")) is None:
        message = f"{job.where}: [torch] compile = true needs a C++ compiler, there is no g++"
        raise BuildError(message, hint="apt-get install g++, or leave it out")
    form = job.spec.input
    # Zeros: torch keeps what it traced beside the program, and rows may be nobody's business.
    zeros = torch.from_numpy(np.zeros((2, *form.shape), dtype=DTYPES[form.dtype]))
    batch = torch.export.Dim("batch", min=1, max=job.spec.max_batch)
    device = _device() if job.spec.program.compile else "cpu"
    if device != "cpu":
        module = copy.deepcopy(module)
    with _quiet(), torch.no_grad():
        try:
            typed = _typed(module.to(device), job.expert.precision, device.partition(":")[0])
            program = torch.export.export(typed, (zeros.to(device),), dynamic_shapes=({0: batch},))
            # Without this, casts stay a region that belongs to one kind of device.
            program = program.run_decompositions({})
            _strip(program.graph_module)
            if job.spec.program.compile:
                torch._inductor.aoti_compile_and_package(program, package_path=str(path))
            else:
                torch.export.save(program, path)
        except Exception as exc:  # the exporter raises whatever the module's code raises
            line = str(exc).splitlines()[0][:_LINE] if str(exc) else type(exc).__name__
            message = f"{job.where}: cannot be exported by torch.export: {line}"
            hint = "avoid branches on values; compute every row from that row alone"
            raise BuildError(message, hint=hint) from exc


def _device() -> str:
    """Name the device that programs run on here."""
    import torch

    return "cuda:0" if gpus() and torch.cuda.is_available() else "cpu"


def _strip(graph_module: Any) -> None:
    """Forget where each step came from: files of this machine, and numbers that change each run."""
    for part in graph_module.modules():
        for node in part.graph.nodes if hasattr(part, "graph") else ():
            for key in set(node.meta) - _NEEDED:
                del node.meta[key]


def _by(size: int, run: Runner, job: Job) -> Any:
    """Run the sample in batches of a size."""
    import numpy as np

    rows = job.sample
    size = min(size, job.spec.max_batch)
    return np.concatenate([run(rows[i : i + size]) for i in range(0, len(rows), size)])


def _typed(module: nn.Module, precision: str, device: str) -> nn.Module:
    """Wrap a module so that its layers with weights compute in 16 bits; the rest stays as it is."""
    import torch

    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
    if dtype is None:
        return module

    class Typed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            with torch.autocast(device, dtype=dtype):
                out: torch.Tensor = self.inner(rows).float()
            return out

    return Typed().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says about itself; its errors are raised."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
