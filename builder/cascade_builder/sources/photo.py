"""Canonical pixels made what a net was trained on: the crop, the side, the scale.

Imported only where torch is at hand. Shapes: N rows, S canonical side, H and W what the net sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

__all__ = ["Photo", "PhotoForm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoForm:
    """What a net expects of a picture.

    Attributes:
        height: H.
        width: W.
        mean: Taken off each channel of pixels in [0, 1].
        deviation: Divides each channel then.
        mode: ``bicubic``, ``bilinear`` or ``nearest``.
        crop: Share of the canonical square, about its centre, that the net sees.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    mode: str = "bicubic"
    crop: float = 1.0


class Photo(nn.Module):
    """Crop, resize, normalise, net.

    Args:
        net: (N, 3, H, W) float32 to (N, C) float32, or to something that has it as ``logits``.
        form: What it expects.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, net: nn.Module, form: PhotoForm) -> None:
        super().__init__()
        self.net = net
        self.form = form
        self.register_buffer("mean", _per_channel(form.mean), persistent=False)
        self.register_buffer("deviation", _per_channel(form.deviation), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run.

        Args:
            pixels: (N, S, S, 3) uint8, RGB.

        Returns:
            (N, C) float32 logits.
        """
        form, side = self.form, pixels.shape[1]
        crop = round(side * form.crop)
        start = (side - crop) // 2
        x = pixels[:, start : start + crop, start : start + crop, :]
        x = x.permute(0, 3, 1, 2).to(torch.float32)
        if (crop, crop) != (form.height, form.width):
            smooth = form.mode != "nearest"
            x = functional.interpolate(
                x,
                size=(form.height, form.width),
                mode=form.mode,
                antialias=smooth,
                align_corners=False if smooth else None,
            )
        out: torch.Tensor = self.net((x.clamp(0.0, 255.0) / 255.0 - self.mean) / self.deviation)
        return out


def _per_channel(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
