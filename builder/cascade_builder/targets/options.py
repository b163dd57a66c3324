"""What a spec may say about targets: names, precisions, options of engines and of serving.

``spec`` reads these, so nothing here imports it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from cascade_router.errors import SpecError
from cascade_router.strict import Table

__all__ = ["PRECISIONS", "TARGETS", "Engine", "Program", "Serving"]

TARGETS = ["auto", "embedded", "onnxruntime", "tensorrt", "tensorrt-rtx", "torch"]
"""What runs the experts; ``auto`` chooses."""

PRECISIONS = ["fp32", "tf32", "fp16", "bf16", "int8", "fp8"]
"""What an expert computes in; its input stays canonical and its logits stay float32."""

_MOST_MB = 1_000_000
_CAPABILITY = re.compile(r"[1-9]\d*\.\d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How engines are built and served: the table ``[tensorrt]``, for both TensorRT targets.

    Attributes:
        workspace_mb: Most memory that a kernel may take for itself; 0: what the GPU has.
        timing_cache: Keep the timings of kernels beside the built experts, so that the next build
            is quicker.
        version_compatible: The engine also runs in later versions of TensorRT; Triton takes it
            when started with ``--backend-config=tensorrt,version-compatible=true``.
        hardware_compatible: The engine also runs on later GPUs.
        profiles: Batch sizes (least, usual, most) that the engine is tuned for, one triple for
            each optimisation profile; empty: one, up to the cascade's ``max_batch``.
        cuda_graphs: Batch sizes to capture as CUDA graphs; empty: none.
        compute_capabilities: GPUs that RTX engines are built for, such as ``8.9``; empty: all of
            Ampere and later that TensorRT-RTX knows. ``tensorrt`` builds for the GPU it runs on.
    """

    workspace_mb: int = 0
    timing_cache: bool = True
    version_compatible: bool = False
    hardware_compatible: bool = False
    profiles: tuple[tuple[int, int, int], ...] = ()
    cuda_graphs: tuple[int, ...] = ()
    compute_capabilities: tuple[str, ...] = ()

    @classmethod
    def read(cls, table: Table, max_batch: int) -> Engine:
        """Take the options from a spec's ``[tensorrt]``; an empty table gives the usual ones.

        Args:
            table: It.
            max_batch: Most rows in one call of a model.

        Raises:
            SpecError: If it asks for something that cannot be.
        """
        usual = cls()
        out = cls(
            workspace_mb=table.whole("workspace_mb", usual.workspace_mb, high=_MOST_MB),
            timing_cache=table.flag("timing_cache", usual.timing_cache),
            version_compatible=table.flag("version_compatible", usual.version_compatible),
            hardware_compatible=table.flag("hardware_compatible", usual.hardware_compatible),
            profiles=_profiles(table, max_batch),
            cuda_graphs=_numbers(table, "cuda_graphs", 1, max_batch),
            compute_capabilities=_capabilities(table),
        )
        table.done()
        return out

    def batches(self, max_batch: int) -> tuple[tuple[int, int, int], ...]:
        """Say the optimisation profiles: those given, or one for all batch sizes."""
        return self.profiles or ((1, max(1, max_batch // 2), max_batch),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How programs of target torch are made: the table ``[torch]``.

    Attributes:
        compile: By AOTInductor, for the kind of machine that builds; it needs a C++ compiler.
    """

    compile: bool = False

    @classmethod
    def read(cls, table: Table) -> Program:
        """Take the options from a spec's ``[torch]``.

        Raises:
            SpecError: If it asks for something that cannot be.
        """
        out = cls(compile=table.flag("compile", False))
        table.done()
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How Triton serves an expert, beside its instances, threads and delay.

    Attributes:
        gpus: Numbers of the GPUs that hold its instances, where it runs on GPUs at all; empty: all
            that the server sees.
        preferred_batches: Sizes that the batcher prefers to others; only of use where an engine
            has a profile for each.
        max_queue_requests: More than so many waiting are refused; 0: any number waits.
        queue_timeout_ms: A request that waits longer is refused; 0: it waits as long as it takes.
        warmup_batches: Sizes that are run before it serves; empty: 1 and the largest.
    """

    gpus: tuple[int, ...] = ()
    preferred_batches: tuple[int, ...] = ()
    max_queue_requests: int = 0
    queue_timeout_ms: int = 0
    warmup_batches: tuple[int, ...] = ()

    @classmethod
    def read(cls, table: Table, max_batch: int) -> Serving:
        """Take the options from an ``[[expert]]``, whose other keys stay.

        Args:
            table: It.
            max_batch: Most rows in one call of a model.

        Raises:
            SpecError: If it asks for something that cannot be.
        """
        return cls(
            gpus=_numbers(table, "gpus", 0, 255),
            preferred_batches=_numbers(table, "preferred_batches", 1, max_batch),
            max_queue_requests=table.whole("max_queue_requests", 0, high=1_000_000),
            queue_timeout_ms=table.whole("queue_timeout_ms", 0, high=3_600_000),
            warmup_batches=_numbers(table, "warmup_batches", 1, max_batch),
        )


def _profiles(table: Table, max_batch: int) -> tuple[tuple[int, int, int], ...]:
    profiles: list[tuple[int, int, int]] = []
    for i, inner in enumerate(table.tables("profiles") if table.has("profiles") else []):
        low = inner.whole("min", low=1)
        usual = inner.whole("opt", low=1)
        high = inner.whole("max", low=1)
        inner.done()
        if not low <= usual <= high <= max_batch:
            got = f"min {low}, opt {usual}, max {high}"
            _refuse(
                f"{table.where}.profiles[{i}]: got {got}, expected min <= opt <= max <= {max_batch}"
            )
        profiles.append((low, usual, high))
    for size in range(1, max_batch + 1) if profiles else ():
        if not any(low <= size <= high for low, _, high in profiles):
            message = f"{table.where}.profiles: none takes a batch of {size}"
            hint = f"the batcher forms every size from 1 to max_batch = {max_batch}"
            _refuse(message, hint)
    return tuple(profiles)


def _numbers(table: Table, key: str, low: int, high: int) -> tuple[int, ...]:
    """Take a list of whole numbers, each once, small ones first."""
    numbers = table.items(key, [])
    for number in numbers:
        if type(number) is not int or not low <= number <= high:
            _refuse(f"{table.where}.{key}: got {number!r}, expected {low} to {high}")
    return tuple(sorted(set(numbers)))


def _capabilities(table: Table) -> tuple[str, ...]:
    values = table.items("compute_capabilities", [])
    for value in values:
        if not isinstance(value, str) or _CAPABILITY.fullmatch(value) is None:
            message = f"{table.where}.compute_capabilities: got {value!r}, expected text"
            _refuse(message, 'for example ["8.9", "12.0"]')
    return tuple(values)


def _refuse(message: str, hint: str | None = None) -> NoReturn:
    raise SpecError(message, hint=hint)
