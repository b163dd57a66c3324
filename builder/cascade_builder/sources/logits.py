"""Nets of transformers as functions of canonical rows; imported only where torch is at hand.

Shapes: N rows, S canonical side, L tokens, C classes.
"""

from __future__ import annotations

import torch
from torch import nn

from .photo import Photo, PhotoForm

__all__ = ["FromPixels", "FromTokens"]


class _Logits(nn.Module):
    """Takes the logits out of a net's answer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(pixel_values=pixels).logits
        return out


class FromPixels(Photo):
    """(N, S, S, 3) uint8 to (N, C) float32 logits."""

    def __init__(self, net: nn.Module, form: PhotoForm) -> None:
        super().__init__(_Logits(net), form)


class FromTokens(nn.Module):
    """Token numbers to logits.

    Args:
        net: A classifier of sequences.
        padding: Token that fills a row up.
    """

    def __init__(self, net: nn.Module, padding: int) -> None:
        super().__init__()
        self.net = net
        self.padding = padding

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Run.

        Args:
            tokens: (N, L) int32 or int64.

        Returns:
            (N, C) float32 logits.
        """
        tokens = tokens.to(torch.int64)
        mask = (tokens != self.padding).to(torch.int64)
        out: torch.Tensor = self.net(input_ids=tokens, attention_mask=mask).logits
        return out
