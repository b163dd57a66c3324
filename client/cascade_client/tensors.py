"""NumPy arrays from Triton's bytes and back.

Triton sends a tensor as its C-order little-endian bytes; a ``BYTES`` element is preceded by its
length as uint32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from cascade_router.errors import ServerError

from .calls import Array

__all__ = ["DTYPES", "array_from_raw", "datatype_of", "raw_from_array"]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
"""NumPy's type for each of Triton's (BF16 has none)."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: Array) -> str:
    """Name the array's type as Triton does.

    Raises:
        ValueError: If Triton has none.
    """
    if array.dtype.kind in "SO":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("<")]
    except KeyError:
        message = f"Triton has no datatype for {array.dtype}"
        raise ValueError(message) from None


def raw_from_array(array: Array) -> bytes:
    """Write an array as Triton reads it; elements of object arrays are bytes."""
    if array.dtype.kind not in "SO":
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return little.tobytes()
    parts: list[bytes] = []
    for value in array.ravel().tolist():
        parts += (struct.pack("<I", len(value)), value)
    return b"".join(parts)


def array_from_raw(raw: bytes, datatype: str, shape: Sequence[int]) -> Array:
    """Read what Triton wrote.

    Args:
        raw: The tensor's bytes; a fixed-width array is a view of them.
        datatype: Triton's name of the type.
        shape: Lengths, batch dimension included.

    Raises:
        ServerError: If the bytes do not fit type and shape.
    """
    try:
        if datatype == "BYTES":
            return _strings(raw, shape)
        return np.frombuffer(raw, DTYPES[datatype]).reshape(shape)
    except (ValueError, KeyError, struct.error) as exc:
        message = f"reply: {len(raw)} bytes are no {datatype} tensor of shape {list(shape)}"
        raise ServerError(message, hint="is this really a Triton server?") from exc


def _strings(raw: bytes, shape: Sequence[int]) -> Array:
    out = np.empty(math.prod(shape), dtype=object)
    at = 0
    for i in range(len(out)):
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        out[i] = raw[at - length : at]
    if at != len(raw):
        message = f"{len(raw) - at} bytes too many"
        raise ValueError(message)
    return out.reshape(shape)
