"""Pictures that are none: broken, cut, of forbidden kinds, or far larger than they look."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from .bad_values import any_of, hurt

__all__ = ["HEAVY", "MUTATIONS", "png"]

Rng = np.random.Generator

_HEADER_END = 8 + 25
"""Signature and first chunk of a PNG."""


def png(pixels: np.ndarray, extra: bytes = b"") -> bytes:
    """Encode (S, S, 3) uint8 pixels without loss, with further chunks behind the header."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    data = out.getvalue()
    return data[:_HEADER_END] + extra + data[_HEADER_END:]


def _other_kind(rng: Rng, picture: bytes) -> bytes:
    """Cut or hurt the picture in another format."""
    out = io.BytesIO()
    kind = any_of(rng, ("JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"))
    Image.open(io.BytesIO(picture)).save(out, kind)
    return hurt(rng, out.getvalue())


def _forbidden(rng: Rng, picture: bytes) -> bytes:
    """Send a kind that Pillow knows and the cascade does not take, PostScript above all."""
    out = io.BytesIO()
    kind = any_of(rng, ("ICO", "EPS", "PDF", "TGA", "PCX", "ICNS"))
    Image.open(io.BytesIO(picture)).save(out, kind)
    return out.getvalue()


def _hurt(rng: Rng, picture: bytes) -> bytes:
    return hurt(rng, picture)


def _huge_png(rng: Rng, _: bytes) -> bytes:
    """Say in the header that the picture is enormous."""
    width, height = any_of(rng, ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (1, 2**30), (0, 5)))
    return _png_of(width, height, zlib.compress(b"\0" * 1000))


def _bomb_png(_rng: Rng, _: bytes) -> bytes:
    """Hold far more pixel data than the header says: 64 MB of zeros in 64 KB."""
    return _png_of(16, 16, _zeros())


def _bomb_text(_rng: Rng, _: bytes) -> bytes:
    """Hold a compressed comment of 64 MB."""
    text = b"Comment\0\0" + _zeros()
    return _png_of(16, 16, zlib.compress(b"\0" * 784), extra=_chunk(b"zTXt", text))


def _huge_gif(rng: Rng, _: bytes) -> bytes:
    side = any_of(rng, (65535, 40_000))
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0)
    return head + frame + b"\2\2\x4c\1\0;"


def _huge_tiff(rng: Rng, _: bytes) -> bytes:
    """A directory of tags that point anywhere."""
    n = int(rng.integers(1, 60))
    tags = b"".join(
        struct.pack("<HHII", *rng.integers(0, 65536, 2), *rng.integers(0, 2**32, 2, dtype=np.int64))
        for _ in range(n)
    )
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", n) + tags + struct.pack("<I", 8)


def _huge_jpeg(rng: Rng, picture: bytes) -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", *any_of(rng, ((65500, 65500), (0, 0), (1, 65535))))
    return bytes(data)


def _odd_extra(rng: Rng, _: bytes) -> bytes:
    """Hold a chunk beside good pixels that says what is none of a picture's business."""
    extra = any_of(rng, _EXTRAS)
    return png(rng.integers(0, 256, (8, 8, 3), np.uint8), extra)


def _empty(_rng: Rng, _: bytes) -> bytes:
    return b""


def _long(rng: Rng, picture: bytes) -> bytes:
    """More bytes than are taken, behind a good picture."""
    return picture + bytes(int(rng.integers(33, 40)) * 2**20)


def _png_of(width: int, height: int, data: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def _zeros() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(64)), packer.flush()])


_EXTRAS = (
    _chunk(b"eXIf", b"II*\0"),
    _chunk(b"eXIf", b"II+\0\x08\0\0\0" + bytes(8)),
    _chunk(b"tEXt", b"Raw profile type exif\0\nexif\n4\n49492a00"),
    _chunk(b"tEXt", b"xmp\0<x:xmpmeta/>"),
    _chunk(b"tEXt", b"transparency\0abc"),
)
"""Metadata that is cut short, of a kind that is not known, or named like something else."""

Mutation = Callable[[Rng, bytes], bytes]

MUTATIONS: tuple[Mutation, ...] = (
    *(_hurt, _hurt, _hurt, _other_kind, _other_kind, _other_kind, _forbidden, _empty),
    *(_huge_png, _huge_gif, _huge_tiff, _huge_jpeg, _odd_extra),
)
"""Ways to spoil a picture that cost the sender next to nothing."""

HEAVY: tuple[Mutation, ...] = (_bomb_png, _bomb_text, _long)
"""Those that take a moment to make."""
