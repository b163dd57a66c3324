"""Weights of a net from a file, without running code that a pickle may hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade_router.errors import BuildError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["load_into", "weights_from"]

_WRAPPERS = ["state_dict", "model", "model_state_dict", "state_dict_ema"]
"""Keys under which training scripts keep the weights."""


def weights_from(path: Path, where: str) -> dict[str, torch.Tensor]:
    """Read a checkpoint: safetensors, or what ``torch.save`` wrote of tensors alone.

    Args:
        path: The file.
        where: What to call the expert in messages.

    Raises:
        BuildError: If it cannot be read as weights.
    """
    import torch

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            values: Any = load_file(path)
        else:
            values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # each reader has error classes of its own
        message = f"{where}: the weights {path.name!r} cannot be read: {type(exc).__name__}: {exc}"
        line = " ".join(message.split())[:400]
        hint = "give a .safetensors file, or a state dict saved by torch.save"
        raise BuildError(line, hint=hint) from exc
    for key in _WRAPPERS:
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
            break
    if not isinstance(values, Mapping) or not values:
        message = f"{where}: the weights {path.name!r} are {type(values).__name__}"
        raise BuildError(message, hint="expected a state dict: tensors by name")
    return {str(name).removeprefix("module."): value for name, value in values.items()}


def load_into(net: nn.Module, weights: Mapping[str, torch.Tensor], where: str) -> None:
    """Give a net its weights, all of them and no others.

    Raises:
        BuildError: If names or shapes differ.
    """
    try:
        net.load_state_dict(dict(weights))
    except RuntimeError as exc:
        lines = [line.strip() for line in str(exc).splitlines()[1:] if line.strip()]
        message = f"{where}: the weights do not fit the net: {' '.join(lines)[:300]}"
        raise BuildError(message, hint="check `arguments`, such as num_classes") from exc
