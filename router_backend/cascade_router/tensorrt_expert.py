"""An expert of the target tensorrt-rtx: an engine inside Triton's Python backend.

Config: one input, one output, instances on GPUs. Needs ``tensorrt_rtx`` and ``polygraphy`` in the
server's Python. Never run by the tests of this project beyond opening: it needs an RTX GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import PolicyError, TierError
from .triton_io import Array, config_of, respond_stacked

__all__ = ["TritonPythonModel", "device", "opened", "profile_for", "runner"]


def opened(path: Path, library: str, profile: int = 0) -> Any:
    """Make Polygraphy's runner of an engine; it owns GPU memory from ``activate`` on.

    Args:
        path: The engine.
        library: ``tensorrt`` or ``tensorrt_rtx``.
        profile: Number of the optimisation profile it starts with.

    Raises:
        PolicyError: If Polygraphy or the library is missing.
    """
    try:
        from polygraphy import config

        config.USE_TENSORRT_RTX = library == "tensorrt_rtx"  # read once, by the next import
        from polygraphy.backend.common import BytesFromPath
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    except ImportError as exc:
        message = f"{path.name}: cannot be opened: {exc}"
        raise PolicyError(message, hint="pip install 'triton-cascade[rtx]' there") from exc
    return TrtRunner(EngineFromBytes(BytesFromPath(str(path))), optimization_profile=profile)


def profile_for(n_rows: int, profiles: list[tuple[int, int, int]]) -> int:
    """Choose the optimisation profile whose usual batch is nearest among those that take a batch.

    Args:
        n_rows: Of the batch.
        profiles: (least, usual, most) rows of each.

    Raises:
        TierError: If none takes it.

    Example:
        >>> profile_for(5, [(1, 1, 4), (1, 8, 32)])
        1
    """
    fitting = [i for i, (low, _, high) in enumerate(profiles) if low <= n_rows <= high]
    if not fitting:
        message = f"TensorRT: no profile of the engine takes {n_rows} rows"
        raise TierError(message)
    return min(fitting, key=lambda i: abs(profiles[i][1] - n_rows))


def device(number: str, visible: str | None) -> str:
    """Name the GPU of an instance as ``CUDA_VISIBLE_DEVICES`` wants it.

    Args:
        number: Triton's, which counts the GPUs that the server sees.
        visible: What ``CUDA_VISIBLE_DEVICES`` says to the server; None: nothing.

    Example:
        >>> device("1", None), device("1", "4,7")
        ('1', '7')
    """
    return visible.split(",")[int(number)].strip() if visible else number


def runner(path: Path, library: str = "tensorrt_rtx") -> Callable[[Array], Array]:
    """Open an engine with one input and one output as a function of stacked rows.

    Args:
        path: The engine.
        library: ``tensorrt`` or ``tensorrt_rtx``.

    Returns:
        (n, ...) rows -> (n, C) logits; raises ``TierError`` when the run fails.

    Raises:
        PolicyError: If the engine cannot be opened here.
    """
    engine = opened(path, library)
    try:
        engine.activate()
    except Exception as exc:  # Polygraphy's and CUDA's errors share no base but Exception
        message = f"{path.name}: cannot be opened: {exc}"
        raise PolicyError(message, hint="build it for this GPU and this library") from exc
    (name,) = engine.get_input_metadata()
    (output,) = (one for one in _names(engine) if one != name)
    profiles = _profiles(engine, name)
    active = 0

    def run(rows: Array) -> Array:
        nonlocal active
        wanted = profile_for(len(rows), profiles)
        try:
            if wanted != active:
                engine.set_profile(wanted)
                active = wanted
            # A copy: the next run writes into the same host buffer.
            logits: Array = engine.infer({name: rows})[output].copy()
        except Exception as exc:
            message = f"TensorRT: {exc}"
            raise TierError(message) from exc
        return logits

    return run


def _names(engine: Any) -> list[str]:
    loaded = engine.engine
    return [loaded.get_tensor_name(i) for i in range(loaded.num_io_tensors)]


def _profiles(engine: Any, name: str) -> list[tuple[int, int, int]]:
    loaded = engine.engine
    shapes = (
        loaded.get_tensor_profile_shape(name, i) for i in range(loaded.num_optimization_profiles)
    )
    return [(low[0], usual[0], high[0]) for low, usual, high in shapes]


class TritonPythonModel:
    """Runs ``model.plan`` on the stacked rows of each batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the engine on the GPU of this instance."""
        # Each instance is a process of its own, and CUDA looks at this when it is first used.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = device(args["model_instance_device_id"], visible)
        config = config_of(args)
        self._run = runner(Path(args["model_repository"]) / args["model_version"] / "model.plan")
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests with one run."""
        return respond_stacked(requests, self._input, lambda rows: {self._output: self._run(rows)})
