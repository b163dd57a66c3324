"""``auto``: the quickest target that this machine can both build and serve, and why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cascade_router.errors import ServerError
from cascade_router.installation import Installation

from .hardware import Gpu, gpus
from .identity import module_there
from .tensorrt_rtx import CAPABILITIES

if TYPE_CHECKING:
    from cascade_builder.spec import Spec

__all__ = ["Machine", "choose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a choice depends on.

    Attributes:
        gpus: At hand.
        has_module: Says whether a Python module is there.
        has_backend: Says whether a tritonserver here has a backend.
    """

    gpus: tuple[Gpu, ...]
    has_module: Callable[[str], bool]
    has_backend: Callable[[str], bool]

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine."""
        return cls(gpus=gpus(), has_module=module_there, has_backend=_has_backend)


def choose(
    asked: str | None, spec: Spec, machine: Callable[[], Machine] = Machine.here
) -> tuple[str, str]:
    """Choose; see ``targets.choose``."""
    if asked not in (None, "auto"):
        return str(asked), "asked for"
    if asked is None and spec.target != "auto":
        return spec.target, "the spec says so"
    return _best(machine())


def _best(machine: Machine) -> tuple[str, str]:
    """Go through the targets, quickest first; say of those passed over what they lack."""
    if not machine.gpus:
        if machine.has_backend("onnxruntime"):
            return "onnxruntime", "auto: no GPU here, the server has the onnxruntime backend"
        return "embedded", "auto: no GPU here, it runs on any machine"
    gpu = machine.gpus[0]
    lacks = {
        "tensorrt": _first(
            (not machine.has_module("tensorrt"), "the package tensorrt is not installed"),
            (not machine.has_backend("tensorrt"), "no server here has the tensorrt backend"),
        ),
        "tensorrt-rtx": _first(
            (gpu.capability not in CAPABILITIES, f"it does not build for {gpu.capability}"),
            (not machine.has_module("tensorrt_rtx"), "the extra rtx is not installed"),
        ),
        "torch": _first((not machine.has_module("torch"), "the package torch is not installed")),
    }
    passed: list[str] = []
    for target, lack in lacks.items():
        if lack is None:
            return target, "; ".join([f"auto: {gpu}", *passed])
        passed.append(f"not {target}: {lack}")
    return "embedded", "; ".join([f"auto: {gpu}", *passed])


def _first(*found: tuple[bool, str]) -> str | None:
    """Say the first reason that holds."""
    return next((why for holds, why in found if holds), None)


def _has_backend(name: str) -> bool:
    try:
        Installation.find({name})
    except ServerError:
        return False
    return True
