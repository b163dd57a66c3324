"""Real photos that lie inside the scikit-image package; nothing is fetched.

Files are read where they lie, not through ``skimage.data``: its functions download what is missing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

__all__ = ["paths", "rows"]

_NAMES = [
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "astronaut.png",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "ihc.png",
    "camera.png",
    "coins.png",
    "horse.png",
    "clock_motion.png",
    "grass.png",
    "page.png",
]
"""Photos of things first, then what no class fits: parity must hold there too."""


def paths() -> list[Path]:
    """Name the files, those that this release of scikit-image carries."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        message = "the package 'scikit-image' is not installed; it is in the extra `demo`"
        raise ModuleNotFoundError(message)
    folder = Path(found.origin).parent / "data"
    return [folder / name for name in _NAMES if (folder / name).is_file()]


def rows() -> list[bytes]:
    """Read the photos as a client would send them."""
    return [path.read_bytes() for path in paths()]
