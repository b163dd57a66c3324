"""An encoded picture in, the pixels all experts share out.

Pillow is imported where it is needed: the router itself runs without it.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from .errors import RequestError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

__all__ = ["MAX_BYTES", "MAX_PIXELS", "MAX_REQUEST_PIXELS", "Allowance", "pixels_from_bytes"]

MAX_BYTES = 32 * 2**20
"""Largest encoded picture taken, in bytes."""

MAX_PIXELS = 64_000_000
"""Largest picture decoded, in pixels: read from its header before any memory is spent."""

MAX_REQUEST_PIXELS = 8 * MAX_PIXELS
"""Most pixels that the pictures of one request may have together."""

_SCANS = 16
"""Passes over a JPEG of MAX_PIXELS, and more over smaller ones: progressive files have about ten,
and each costs the time of a whole decoding while it takes 100 bytes."""

_TILES = 2**17
"""Tiles or strips of a TIFF: each costs some microseconds, however small; and a file may have many
that all cover the whole picture."""

_EXIFS = 64
"""Segments of EXIF in a JPEG, those of further pictures in the file included: there is one in each
picture. Pillow joins them one by one, which takes the square of their number."""

_SLOW_BYTES, _SLOW_PIXELS = 2**16, 2**20
"""Largest picture of a kind that Pillow decodes in Python: plain PPM, whose comments take the
square of their number, PPM of odd depths, and run-length BMP. All others are decoded in C."""

_HINT = "send one JPEG, PNG, WebP, GIF, BMP or TIFF file, whole and as it lies on disk"
_JPEG, _START_OF_SCAN, _EXIF = b"\xff\xd8", b"\xff\xda", b"Exif\0\0"
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")


class Allowance:
    """Pixels that the pictures of one request may still have.

    Args:
        pixels: So many in all.
    """

    def __init__(self, pixels: int = MAX_REQUEST_PIXELS) -> None:
        self._all = self._left = pixels

    def take(self, pixels: int) -> None:
        """Count a picture before it is decoded.

        Raises:
            RequestError: If it is too much.
        """
        if pixels > self._left:
            what = f"the pictures of one request have more than {self._all} pixels together"
            _refuse(what, "send fewer or smaller pictures at once")
        self._left -= pixels


def pixels_from_bytes(
    data: bytes, size: int, allowance: Allowance | None = None
) -> npt.NDArray[np.uint8]:
    """Decode a picture and resize its centre square.

    Turned as its EXIF says; palette, grey, CMYK and 16-bit pictures become RGB, transparency is
    laid on white; of an animation the first frame counts.

    Args:
        data: One encoded picture.
        size: Side of the result in pixels.
        allowance: What is left of the request's; None: without such a limit.

    Returns:
        (size, size, 3) uint8, RGB, bicubic with antialiasing.

    Raises:
        RequestError: If it is no picture, is truncated, or is too large.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        _refuse("is empty")
    if len(data) > MAX_BYTES:
        _refuse(f"has {len(data)} bytes, at most {MAX_BYTES} are taken", "send a smaller picture")
    if data.startswith(_JPEG) and data.count(_EXIF) > _EXIFS:
        _refuse(f"has {data.count(_EXIF)} segments of EXIF, far more than a picture needs")
    try:
        # Pillow warns of sizes that are checked here, and of odd metadata, which do no harm.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=_FORMATS) as image,
        ):
            _check(image, data)
            if allowance is not None:
                allowance.take(image.width * image.height)
            # A JPEG may be decoded at 1/2, 1/4 or 1/8 as long as twice the wanted size is left.
            image.draft("RGB", (2 * size, 2 * size))
            turned = ImageOps.exif_transpose(image)
            square = ImageOps.fit(_rgb(turned), (size, size), Image.Resampling.BICUBIC)
            return np.asarray(square)
    except RequestError:
        raise
    except UnidentifiedImageError:
        _refuse(f"is not a picture of a known format ({len(data)} bytes)")
    except Exception as exc:  # noqa: BLE001  # Pillow's readers of metadata raise whatever comes
        _refuse(f"cannot be decoded: {str(exc) or type(exc).__name__}")


def _check(image: ImageFile, data: bytes) -> None:
    """Refuse a picture whose decoding would take far more time or memory than a picture needs."""
    from PIL.Image import DECODERS

    width, height = image.size
    if width * height > MAX_PIXELS:
        _refuse(
            f"is {width} x {height}, at most {MAX_PIXELS} pixels are decoded",
            "send a smaller picture",
        )
    jpeg = data.startswith(_JPEG) or "jpeg" in str(image.info.get("compression"))  # TIFF
    scans = data.count(_START_OF_SCAN) if jpeg else 1
    if scans * width * height > _SCANS * MAX_PIXELS:
        _refuse(f"is {width} x {height} in {scans} scans, far more than a picture needs")
    tiles = [tile[1] or (0, 0, width, height) for tile in image.tile]
    area = sum((right - left) * (bottom - top) for left, top, right, bottom in tiles)
    if len(tiles) > _TILES or area > _SCANS * MAX_PIXELS:
        _refuse(f"is {width} x {height} in {len(tiles)} tiles, far more than a picture needs")
    in_python = any(tile[0] in DECODERS for tile in image.tile)
    if in_python and (len(data) > _SLOW_BYTES or width * height > _SLOW_PIXELS):
        what = f"has {len(data)} bytes and {width} x {height} pixels of a kind that is slow to read"
        _refuse(what, f"{_HINT}, neither run-length coded nor as text")


def _rgb(image: Image) -> Image:
    """Convert any mode to RGB without losing range or transparency."""
    from PIL import Image as Pillow

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # 16-bit and wider grey: Pillow's own conversion clips at 255 instead of scaling.
        values = np.asarray(image).astype(np.float32)
        top = 65535.0 if image.mode != "F" else max(float(values.max(initial=1.0)), 1.0)
        values /= top / 255.0  # in place, as is the next: a picture may fill much of the memory
        grey = np.clip(values, 0, 255, out=values).astype(np.uint8)
        return Pillow.fromarray(grey).convert("RGB")
    if image.mode == "P" or "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Pillow.new("RGBA", layer.size, "white")
        return Pillow.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _refuse(what: str, hint: str = _HINT) -> NoReturn:
    message = f"input IMAGE: {what}"
    raise RequestError(message, hint=hint)
