"""What runs an expert: one small module a target, all with the functions of ``job.Target``.

    options <- job <- embedded, onnxruntime, tensorrt, tensorrt_rtx, torch <- here

Nothing heavy is imported until an expert is converted or run: a build with nothing to do asks only
``choose``, ``check`` and ``toolchain``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cascade_router.errors import BuildError, PolicyError, SpecError

from .identity import module_there
from .job import Array, Converted, Job, Runner, Target
from .options import PRECISIONS, TARGETS, Engine

if TYPE_CHECKING:
    from torch import nn

    from cascade_builder.spec import Expert, Spec

__all__ = [
    "PRECISIONS",
    "TARGETS",
    "Converted",
    "Engine",
    "Runner",
    "check",
    "choose",
    "convert",
    "main_file",
    "runner",
    "toolchain",
    "unreadable",
    "why_not",
]


def choose(asked: str | None, spec: Spec) -> tuple[str, str]:
    """Choose what runs the experts.

    Args:
        asked: One of ``TARGETS``, which wins over the spec; None: not asked.
        spec: The cascade.

    Returns:
        The target, never ``auto``, and why it, in one clause.
    """
    from .choice import choose as chosen

    return chosen(asked, spec)


def check(spec: Spec, target: str) -> None:
    """Refuse a precision or an option that a target does not know; cheap, called before any work.

    Raises:
        SpecError: Names the expert or the option, why not, and what to take instead.
    """
    module = _module(target)
    option = module.refuses_options(spec.engine)
    if option is not None:
        message = f"[tensorrt].{option} (target {target})"
        raise SpecError(message, hint="remove it, or choose another target")
    for expert in spec.experts:
        why = module.refuses(expert.precision)
        if why is not None:
            message = f"expert {expert.name!r}: {expert.precision} on target {target}: {why}"
            raise SpecError(message, hint=f"it takes {', '.join(_taken(module))}")


def toolchain(expert: Expert, spec: Spec, target: str) -> dict[str, str]:
    """Say what a conversion depends on beside the ONNX file and the spec, for the content address.

    Args:
        expert: As the spec names it.
        spec: Its cascade.
        target: Not ``auto``.

    Returns:
        Versions of the libraries, digests of the code that converts, and ``compute_capability``
        where the files are for the kind of GPU at hand alone. Reads metadata only: imports no
        library.

    Raises:
        BuildError: If a library is not installed; says which extra brings it.
    """
    return _module(target).toolchain(expert, spec)


def main_file(target: str) -> str:
    """Name the file that a target serves; its digest is the expert's digest.

    Example:
        >>> main_file("embedded")
        'model.onnx'
    """
    return _module(target).MAIN_FILE


def convert(
    onnx: Path,
    expert: Expert,
    spec: Spec,
    target: str,
    sample: Array,
    folder: Path,
    tell: Callable[[str], None] = lambda _: None,
    *,
    module: nn.Module | None = None,
) -> Converted:
    """Make what a target serves of an expert, at the expert's precision, and verify it.

    Args:
        onnx: The expert's float32 graph, opset 20, dynamic batch, one input named
            ``spec.input.name``, one output ``LOGITS``. Only read.
        expert: As the spec names it.
        spec: Its cascade.
        target: Not ``auto``.
        sample: (N, ...) canonical real rows, N >= 1: verification, and ranges of int8 and fp8.
        folder: Takes the files; made by the caller, who throws it away on an error.
        tell: Takes a sentence on what is being done.
        module: What ``onnx`` was exported from, in eval mode; target ``torch`` needs it, and so
            takes no expert that is given as an ONNX file.

    Returns:
        Files in ``folder`` and the figures of the verification. ``folder`` may be renamed
        afterwards as a whole: ``Converted.files`` names files relative to it.

    Raises:
        BuildError: If it cannot be converted, or does not compute what ``onnx`` computes: names
            the step or layer that diverged first and what to try.
        SpecError: As ``check``.
    """
    work = Job(
        onnx=onnx,
        expert=expert,
        spec=spec,
        target=target,
        sample=sample,
        folder=folder,
        tell=tell,
        module=module,
    )
    return _module(target).convert(work)


def runner(files: Mapping[str, Path], expert: Expert, target: str) -> Runner | None:
    """Open a converted expert as it is served.

    Args:
        files: Name in the version folder -> where it lies now.
        expert: Its ``threads`` and ``precision`` are kept to.
        target: Not ``auto``.

    Returns:
        (n, ...) canonical rows -> (n, C) float32 logits; None where it cannot run on this machine:
        ``why_not`` says why.

    Raises:
        BuildError: If a file is broken.
    """
    module = _module(target)
    if module.why_not() is not None:
        return None
    try:
        return module.runner(files, expert)
    except PolicyError as exc:  # the served expert's own words
        raise BuildError(exc.message, hint=exc.hint) from exc


def unreadable(path: Path, target: str) -> str | None:
    """Say what is wrong with a ready engine that cannot run here; None: nothing that can be told.

    Args:
        path: The file.
        target: Not ``auto``.
    """
    library = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}.get(target)
    if library is None or not module_there(library):
        return None
    from .engine import readable

    return readable(path.read_bytes(), library)


def why_not(target: str) -> str | None:
    """Say why experts of a target cannot run on this machine, in one clause; None: they can."""
    return _module(target).why_not()


def _module(target: str) -> Target:
    """Import a target's module; its name is the target's."""
    assert target in TARGETS[1:], target
    module = importlib.import_module(f"{__name__}.{target.replace('-', '_')}")
    return cast(Target, cast(Any, module))


def _taken(module: Target) -> list[str]:
    return [precision for precision in PRECISIONS if module.refuses(precision) is None]
