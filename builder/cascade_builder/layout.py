"""Which folders and files a cascade's part of the model repository has."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cascade_router
from cascade_router.versions import FIRST

from . import triton_config
from .manifest import Built
from .spec import Spec
from .versions import Versions, pinned, serving

__all__ = ["Model", "core_digest", "core_files", "layout", "model_names"]

_CORE = "cascade_router"
_RUNNERS = {
    "embedded": ("onnx_expert", "Runs the ONNX file beside it."),
    "tensorrt-rtx": ("tensorrt_expert", "Runs the engine beside it."),
    "torch": ("torch_expert", "Runs the program beside it."),
}
"""What runs an expert in the Python backend, by target; the others have backends of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One folder of the repository.

    Attributes:
        name: Of the folder and the Triton model.
        files: Contents by path in the folder; a path is copied from there.
        version: The version folder that is ours; others are left alone.
    """

    name: str
    files: Mapping[str, bytes | Path]
    version: int = FIRST


def core_files() -> dict[str, bytes]:
    """Read the router core, which every Python model carries: servers have it not installed."""
    assert cascade_router.__file__ is not None
    folder = Path(cascade_router.__file__).parent
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def core_digest(core: Mapping[str, bytes]) -> str:
    """Say ``sha256:...`` of the router core."""
    digest = hashlib.sha256()
    for name, data in sorted(core.items()):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


def model_names(spec: Spec) -> list[str]:
    """Name the folders, those first that others call."""
    parts = [expert.name for expert in spec.experts]
    parts += ["preprocess"] if spec.input.raw is not None else []
    return [*(spec.model(part) for part in [*parts, "router", "control"]), spec.name]


def layout(
    spec: Spec,
    target: str,
    built: Sequence[Built],
    *,
    core: Mapping[str, bytes],
    router_files: Mapping[str, bytes | Path],
    versions: Versions | None = None,
) -> list[Model]:
    """Say every folder and file.

    Args:
        spec: The cascade.
        target: What runs the experts.
        built: The experts, in the order of the tiers.
        core: Files of the router core.
        router_files: What else lies beside the router's ``model.py``, such as ``policy.json``.
        versions: Which version each is; None: the first.

    Returns:
        The folders in the order of ``model_names``.
    """
    versions = versions or Versions()
    models = [_expert(spec, one, target, core, versions.of(one.expert.name)) for one in built]
    if spec.input.raw is not None:
        files = _preprocess(spec, core)
        models.append(_model(triton_config.preprocess_config(spec), files))
    files = _python("backend", "Routes the rows of this cascade.", core)
    files |= router_files
    here = triton_config.expert_in_router(spec, target)
    if here is not None:
        first = next(one for one in built if one.expert is here)
        files |= {f"experts/{here.name}.onnx": next(iter(first.files.values()))}
    config = triton_config.router_config(spec)
    models.append(_model(serving(config, [versions.router]), files, versions.router))
    files = _python("control", "Tells about this cascade.", core)
    models.append(_model(triton_config.control_config(spec), files))
    # Triton wants a version folder for an ensemble too, and git keeps no empty folder.
    config = pinned(triton_config.ensemble_config(spec), spec.model("router"), versions.router)
    models.append(_model(config, {".keep": b""}))
    return models


def _expert(
    spec: Spec, built: Built, target: str, core: Mapping[str, bytes], version: int
) -> Model:
    if built.served is not None:
        # An ensemble needs an empty version folder, see below.
        config = triton_config.adapter_config(spec, built.expert, built.served)
        return _model(serving(config, [version]), {".keep": b""}, version)
    files: dict[str, bytes | Path] = dict(built.files)
    if target in _RUNNERS:
        files |= _python(*_RUNNERS[target], core)
    capability = built.toolchain.get("compute_capability")
    config = triton_config.expert_config(spec, built.expert, target, capability)
    return _model(serving(config, [version]), files, version)


def _preprocess(spec: Spec, core: Mapping[str, bytes]) -> dict[str, bytes | Path]:
    if spec.input.text is None:
        return _python("images_model", "Decodes the pictures of this cascade.", core)
    files = _python("text_model", "Tokenises the texts of this cascade.", core)
    return files | {"tokenizer.json": spec.input.text.tokenizer}


def _python(module: str, sentence: str, core: Mapping[str, bytes]) -> dict[str, bytes | Path]:
    """Say the files of a version of a Python model: a shim, and the core it imports."""
    shim = (
        f'"""{sentence} Written by cascade-builder."""\n\n'
        f"from .{_CORE}.{module} import TritonPythonModel\n\n"
        f'__all__ = ["TritonPythonModel"]\n'
    )
    files: dict[str, bytes | Path] = {"model.py": shim.encode()}
    return files | {f"{_CORE}/{name}": data for name, data in core.items()}


def _model(
    config: triton_config.ModelConfig, files: Mapping[str, bytes | Path], version: int = FIRST
) -> Model:
    """Make a folder of a config and the files of one version."""
    text = triton_config.text(config).encode()
    inside = {f"{version}/{name}": content for name, content in files.items()}
    return Model(name=config.name, files={"config.pbtxt": text, **inside}, version=version)
