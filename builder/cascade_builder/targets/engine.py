"""ONNX to engines of TensorRT and of TensorRT for RTX, by one path through Polygraphy.

The precision is in the network, so every network is strongly typed and both libraries are told the
same. An engine is compared with ONNX Runtime where there is a GPU to run it; elsewhere the network
that it is built of is, and the engine is read back as far as the library gets without a driver.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from pathlib import Path
from typing import Any

from cascade_router.errors import BuildError

from .hardware import gpus
from .job import Converted, Job

__all__ = ["MAIN_FILE", "config_for", "convert", "readable", "use"]

MAIN_FILE = "model.plan"

_MIB = 1 << 20
_NO_DRIVER = "CUDA driver"
_HINTS = {
    "tensorrt": "build inside NVIDIA's Triton container, or pip install tensorrt",
    "tensorrt_rtx": "pip install 'triton-cascade[rtx]'",
}


def use(library: str) -> Any:
    """Import ``tensorrt`` or ``tensorrt_rtx`` and tell Polygraphy which of them it is.

    Raises:
        BuildError: If it is missing, or Polygraphy has met the other one in this process.
    """
    try:
        loaded = importlib.import_module(library)
        from polygraphy import config
        from polygraphy.logger import G_LOGGER
    except ImportError as exc:
        message = f"build: {library} cannot be imported: {exc}"
        raise BuildError(message, hint=_HINTS[library]) from exc
    G_LOGGER.module_severity = G_LOGGER.CRITICAL + 1  # what matters is raised
    config.USE_TENSORRT_RTX = library == "tensorrt_rtx"  # read once, when the next line is run
    from polygraphy.backend.trt import loader

    if loader.trt.__name__ != library:
        message = f"build: this process has used {loader.trt.__name__}, and now wants {library}"
        raise BuildError(message, hint="build one of the two targets at a time")
    return loaded


def convert(job: Job, library: str) -> Converted:
    """Build an engine and verify what can be verified here.

    Args:
        job: The expert.
        library: ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        BuildError: If a step changes the answers, or the library does not take the network.
    """
    from cascade_router.tensorrt_expert import opened

    from .network import network_from_onnx
    from .profiles import verified

    trt = use(library)
    network, figures = network_from_onnx(job)
    job.tell(f"engine by {library}")
    path = job.folder / MAIN_FILE
    path.write_bytes(_engine(job, trt, network))
    problem = readable(path.read_bytes(), library)
    if problem is not None:
        message = f"{job.where}: {library} cannot read its own engine: {problem}"
        raise BuildError(message, hint="report it with the versions in manifest.json")
    if gpus():
        figures |= verified(job, functools.partial(opened, path, library))
    else:
        figures["onnx_to_engine"] = {"unverified": "no GPU here; the engine was read back"}
    return Converted(files=(MAIN_FILE,), figures=figures)


def readable(data: bytes, library: str) -> str | None:
    """Say what is wrong with an engine file; None: nothing, as far as can be told here.

    Without a driver the library reads and checks the file's headers and size, then misses the GPU.
    """
    trt = use(library)
    from polygraphy.backend.trt import get_trt_logger

    recorder = _recorder(trt)
    runtime = trt.Runtime(get_trt_logger())
    runtime.error_recorder = recorder
    if runtime.deserialize_cuda_engine(data) is not None:
        return None
    serious = [text for text in recorder.texts if _NO_DRIVER not in text]
    if serious:
        return str(serious[0])
    return None if recorder.texts else "no engine came of it"


def _recorder(trt: Any) -> Any:
    """Make what collects the library's errors."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]  # its base is known at run time
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self.texts: list[str] = []

        def clear(self) -> None:
            self.texts.clear()

        def get_error_code(self, index: int) -> Any:
            del index
            return trt.ErrorCodeTRT.UNSPECIFIED_ERROR

        def get_error_desc(self, index: int) -> str:
            return self.texts[index]

        def has_overflowed(self) -> bool:
            return False

        def num_errors(self) -> int:
            return len(self.texts)

        def report_error(self, code: Any, description: str) -> bool:
            del code
            self.texts.append(description)
            return False

    return Recorder()


def _engine(job: Job, trt: Any, network: Any) -> bytes:
    """Build and serialise."""
    from polygraphy.backend.trt import (
        EngineBytesFromNetwork,
        NetworkFromOnnxBytes,
        PostprocessConfig,
    )
    from polygraphy.exception import PolygraphyException

    data = network.SerializeToString(deterministic=True)
    cache = _timing_cache(job)
    tf32 = job.expert.precision == "tf32"
    recorder = _recorder(trt)

    def finished(builder: Any, parsed: Any, config: Any) -> None:
        del parsed
        builder.error_recorder = recorder
        (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)

    build = EngineBytesFromNetwork(
        NetworkFromOnnxBytes(data, strongly_typed=True),
        config=PostprocessConfig(config_for(job, trt, cache), finished),
        save_timing_cache=cache,
    )
    try:
        with warnings.catch_warnings():
            # Polygraphy 0.53 sets a timing cache in any case, which TensorRT-RTX deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            return bytes(build())
    except PolygraphyException as exc:
        why = _why(trt, data) or next(iter(recorder.texts), str(exc))
        message = f"{job.where}: {trt.__name__} does not build it: {why}"
        hint = f"{job.expert.precision} may be why: try fp32; else --target embedded or torch"
        raise BuildError(message, hint=hint) from exc


def config_for(job: Job, trt: Any, cache: str | None = None) -> Any:
    """Say how to build: the options of ``[tensorrt]``, as Polygraphy's loader of a config.

    Args:
        job: The expert.
        trt: The library.
        cache: File of timings, if they are kept; it need not be there yet.
    """
    from polygraphy.backend.trt import CreateConfig, Profile

    engine, form = job.spec.engine, job.spec.input
    profiles = [
        Profile().add(form.name, *((size, *form.shape) for size in sizes))
        for sizes in engine.batches(job.spec.max_batch)
    ]
    options: dict[str, Any] = {"profiles": profiles}
    if engine.workspace_mb:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: engine.workspace_mb * _MIB}
    if trt.__name__ == "tensorrt_rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        wanted = [tuple(map(int, text.split("."))) for text in engine.compute_capabilities]
        return CreateConfigRTX(**options, compute_capabilities=wanted or None)
    if engine.version_compatible:
        options["version_compatible"] = True
    if engine.hardware_compatible:
        level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        options["hardware_compatibility_level"] = level
    if cache is not None and Path(cache).exists():
        options["load_timing_cache"] = cache
    return CreateConfig(**options)


def _timing_cache(job: Job) -> str | None:
    """Name the file of timings, beside the built experts; RTX engines are timed where they run."""
    wanted = job.spec.engine.timing_cache and job.target == "tensorrt"
    return str(job.folder.parent / "timing.cache") if wanted else None


def _why(trt: Any, data: bytes) -> str | None:
    """Ask the parser what it does not take; None: it takes the network."""
    from polygraphy.backend.trt import create_network, get_trt_logger

    _, network = create_network(strongly_typed=True)
    parser = trt.OnnxParser(network, get_trt_logger())
    if parser.parse(data):
        return None
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    return "; ".join(f"{one.node_operator()} {one.node_name()}: {one.desc()}" for one in errors[:1])
