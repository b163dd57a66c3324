from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from picture_net import SPEC, spec

from cascade_builder import targets
from cascade_builder.pruning import prune
from cascade_builder.spec import Spec
from cascade_builder.targets import embedded, onnxruntime, tensorrt, tensorrt_rtx, torch
from cascade_builder.targets.choice import Machine, choose
from cascade_builder.targets.hardware import Gpu, gpus
from cascade_builder.targets.identity import code, module_there, one_of, versions
from cascade_builder.targets.options import PRECISIONS, TARGETS
from cascade_router.errors import BuildError, SpecError

HOPPER = Gpu("H200", "9.0")
ADA = Gpu("RTX 4090", "8.9")
ALL = {"tensorrt", "tensorrt_rtx", "torch", "onnxruntime"}


def chosen(gpu: Gpu | None, modules: set[str], backends: set[str]) -> tuple[str, str]:
    machine = Machine(
        gpus=() if gpu is None else (gpu,),
        has_module=modules.__contains__,
        has_backend=backends.__contains__,
    )
    asked: Any = SimpleNamespace(target="auto")
    return choose(None, asked, lambda: machine)


@pytest.mark.parametrize(
    ("gpu", "modules", "backends", "target", "why"),
    [
        (None, ALL, set(), "embedded", "auto: no GPU here, it runs on any machine"),
        (
            *(None, ALL, ALL, "onnxruntime"),
            "auto: no GPU here, the server has the onnxruntime backend",
        ),
        (HOPPER, ALL, ALL, "tensorrt", "auto: H200 (9.0)"),
        (
            *(ADA, ALL, set(), "tensorrt-rtx"),
            "auto: RTX 4090 (8.9); not tensorrt: no server here has the tensorrt backend",
        ),
        (
            *(HOPPER, {"torch", "tensorrt_rtx"}, set(), "torch"),
            "auto: H200 (9.0); not tensorrt: the package tensorrt is not installed; "
            "not tensorrt-rtx: it does not build for 9.0",
        ),
        (
            *(ADA, set(), ALL, "embedded"),
            "auto: RTX 4090 (8.9); not tensorrt: the package tensorrt is not installed; "
            "not tensorrt-rtx: the extra rtx is not installed; "
            "not torch: the package torch is not installed",
        ),
    ],
)
def test_auto_takes_the_quickest_that_can_be_built_and_served_here(
    gpu: Gpu | None, modules: set[str], backends: set[str], target: str, why: str
) -> None:
    """And says what the quicker ones lack."""
    assert chosen(gpu, modules, backends) == (target, why)


def test_what_is_asked_for_wins_over_the_spec_and_the_spec_over_the_machine() -> None:
    """The machine is looked at for ``auto`` alone."""

    def nowhere() -> Machine:
        raise AssertionError

    fixed: Any = SimpleNamespace(target="torch")
    assert choose("tensorrt", fixed, nowhere) == ("tensorrt", "asked for")
    assert choose(None, fixed, nowhere) == ("torch", "the spec says so")
    here = Machine(gpus=(), has_module=lambda _: True, has_backend=lambda _: False)
    assert choose("auto", fixed, lambda: here)[0] == "embedded"


def test_this_machine_is_described_without_a_fuss(tmp_path: Path) -> None:
    """Whatever it has: a target that exists, and a reason."""
    target, why = targets.choose("auto", spec(tmp_path))
    assert target in TARGETS[1:]
    assert why.startswith("auto: ")
    assert all(gpu.capability.count(".") == 1 for gpu in gpus())
    assert module_there("numpy")
    assert not module_there("no_such_module")


def test_timings_of_kernels_survive_pruning(tmp_path: Path) -> None:
    """They lie beside the built experts, and make the next engine quicker."""
    (tmp_path / "experts" / "old-1").mkdir(parents=True)
    (tmp_path / "experts" / "timing.cache").touch()
    assert prune(tmp_path, []) == ["experts/old-1"]
    assert (tmp_path / "experts" / "timing.cache").exists()


TAKEN = {
    embedded: {"fp32", "int8"},
    onnxruntime: {"fp32", "fp16", "int8"},
    tensorrt: set(PRECISIONS),
    tensorrt_rtx: set(PRECISIONS),
    torch: {"fp32", "tf32", "fp16", "bf16"},
}


@pytest.mark.parametrize("module", TAKEN, ids=lambda module: module.__name__.rpartition(".")[2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_target_says_which_precisions_it_takes(module: Any, precision: str) -> None:
    """A refusal is a clause that can be shown."""
    why = module.refuses(precision)
    assert (why is None) == (precision in TAKEN[module])
    assert why is None or len(why) > 10


def test_a_precision_that_a_target_lacks_is_refused_with_those_it_has(tmp_path: Path) -> None:
    """Before any work."""
    with pytest.raises(SpecError) as caught:
        targets.check(spec(tmp_path, precision='"fp16"'), "embedded")
    assert caught.value.message.startswith("expert 'small': fp16 on target embedded: ONNX Runtime")
    assert caught.value.hint == "it takes fp32, int8"
    targets.check(spec(tmp_path, precision='"fp16"'), "tensorrt-rtx")


@pytest.mark.parametrize(
    ("target", "table", "said"),
    [
        ("tensorrt", 'compute_capabilities = ["8.9"]', "compute_capabilities: it builds for the"),
        ("tensorrt-rtx", "version_compatible = true", "version_compatible: its engines run"),
        ("tensorrt-rtx", "hardware_compatible = true", "hardware_compatible: its engines"),
        ("tensorrt-rtx", "cuda_graphs = [1]", "cuda_graphs: Triton's tensorrt backend"),
        ("tensorrt-rtx", 'compute_capabilities = ["9.0"]', "compute_capabilities: got 9.0, exp"),
    ],
)
def test_an_option_that_a_target_does_not_know_is_refused(
    target: str, table: str, said: str, tmp_path: Path
) -> None:
    """The same spec is fine for a target that has no engines."""
    asked = spec(tmp_path, f"[tensorrt]\n{table}\n")
    with pytest.raises(SpecError, match=rf"\[tensorrt\]\.{said}") as caught:
        targets.check(asked, target)
    assert caught.value.hint == "remove it, or choose another target"
    targets.check(asked, "embedded")


def test_engine_options_are_read(tmp_path: Path) -> None:
    """All at once."""
    table = """
[tensorrt]
workspace_mb = 512
timing_cache = false
version_compatible = true
hardware_compatible = true
cuda_graphs = [8, 1, 4, 4]
profiles = [{ min = 1, opt = 1, max = 2 }, { min = 2, opt = 8, max = 8 }]

[torch]
compile = true
"""
    found = spec(tmp_path, table)
    assert found.engine.workspace_mb == 512
    assert not found.engine.timing_cache
    assert found.engine.version_compatible
    assert found.engine.hardware_compatible
    assert found.engine.cuda_graphs == (1, 4, 8)
    assert found.engine.batches(8) == ((1, 1, 2), (2, 8, 8))
    assert found.program.compile
    assert spec(tmp_path).engine.batches(8) == ((1, 4, 8),)
    assert spec(tmp_path).engine.batches(1) == ((1, 1, 1),)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("cuda_graphs = [9]", r"\[tensorrt\].cuda_graphs: got 9, expected 1 to 8"),
        ("cuda_graphs = [true]", "got True"),
        ('cuda_graphs = ["1"]', "got '1'"),
        ("workspace_mb = -1", "workspace_mb"),
        ("workspace = 1", "workspace"),
        ("profiles = [{ min = 4, opt = 2, max = 8 }]", "expected min <= opt <= max <= 8"),
        ("profiles = [{ min = 1, opt = 2, max = 9 }]", "expected min <= opt <= max <= 8"),
        ("profiles = [{ min = 1, opt = 2 }]", "max"),
        ("profiles = [{ min = 2, opt = 2, max = 8 }]", "none takes a batch of 1"),
        ("compute_capabilities = [8.9]", "got 8.9, expected text"),
        ('compute_capabilities = ["sm_89"]', "got 'sm_89', expected text"),
    ],
)
def test_engine_options_that_cannot_be_are_refused(table: str, said: str, tmp_path: Path) -> None:
    """By name, with what was got."""
    said = said.replace(r"\[tensorrt\]", "tensorrt")
    with pytest.raises(SpecError, match=said):
        spec(tmp_path, f"[tensorrt]\n{table}\n")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("gpus", "[-1]", "gpus: got -1, expected 0 to 255"),
        ("preferred_batches", "[16]", "preferred_batches: got 16, expected 1 to 8"),
        ("warmup_batches", "[0]", "warmup_batches: got 0, expected 1 to 8"),
        ("max_queue_requests", "-1", "max_queue_requests"),
        ("queue_timeout_ms", "1.5", "queue_timeout_ms"),
        ("precision", '"fp4"', "precision: got 'fp4'"),
    ],
)
def test_serving_options_that_cannot_be_are_refused(
    key: str, value: str, said: str, tmp_path: Path
) -> None:
    """They belong to one expert."""
    with pytest.raises(SpecError, match=rf"expert\[0\]\.{said}"):
        spec(tmp_path, **{key: value})


def test_the_toolchain_of_a_copied_file_is_empty_and_of_all_else_is_not(tmp_path: Path) -> None:
    """What a content address is made of: libraries, and the code that converts."""
    asked = spec(tmp_path, precision='"int8"')
    quantised, plain = asked.experts
    assert targets.toolchain(plain, asked, "embedded") == {}
    found = targets.toolchain(quantised, asked, "embedded")
    assert {"onnx", "onnxruntime", "precision/ranges", "comparison"} <= set(found)
    engine = targets.toolchain(plain, asked, "tensorrt-rtx")
    assert {"tensorrt-rtx-cu13", "polygraphy", "targets/graph", "targets/engine"} <= set(engine)
    assert "compute_capability" not in engine
    assert {"torch", "targets/torch"} <= set(targets.toolchain(plain, asked, "torch"))


def test_digests_of_code_are_of_files_that_are_there() -> None:
    """Every module that a target names can be read."""
    for name, digest in code(*tensorrt.CODE).items():
        assert digest.startswith("sha256:"), name


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it() -> None:
    """The first of several is named where none is there."""
    with pytest.raises(BuildError, match="'no-such-package' is not installed") as caught:
        versions("numpy", "no-such-package", extra="build")
    assert caught.value.hint == "pip install 'triton-cascade[build]'"
    with pytest.raises(BuildError, match="'no-such-package' is not installed"):
        one_of("no-such-package", "nor-such", extra="rtx")
    assert list(one_of("no-such-package", "numpy", extra="rtx")) == ["numpy"]


def test_a_broken_file_is_the_builders_error(tmp_path: Path) -> None:
    """Whoever opens it; what cannot be opened here is not complained about."""
    asked = spec(tmp_path)
    for target, name in {"embedded": "model.onnx", "torch": "model.pt2"}.items():
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(BuildError, match=rf"{name}: .*cannot"):
            targets.runner({name: tmp_path / name}, asked.experts[0], target)
        assert targets.unreadable(tmp_path / name, target) is None


@pytest.mark.parametrize("target", TARGETS[1:])
def test_every_target_has_all_functions(target: str, tmp_path: Path) -> None:
    """Whether it runs here or not, it says what it serves and why it would not run."""
    asked = Spec.parse(SPEC, spec(tmp_path) and tmp_path)
    assert targets.main_file(target).startswith("model.")
    why = targets.why_not(target)
    assert why is None or why
    if why is not None:
        assert targets.runner({}, asked.experts[0], target) is None
    targets.check(asked, target)
