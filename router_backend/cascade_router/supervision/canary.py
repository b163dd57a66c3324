"""Rows that show whether a model serves: through each model alone and through whole cascades."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .triton import Ask, Known, Outcome, Port, Reply

__all__ = ["Shown", "ask_model", "ask_tier", "cascades_of", "shown"]

Array = npt.NDArray[Any]

_DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
_MOST_BYTES = 64 * 2**20  # a canary must not be a load of its own


def ask_model(known: Known) -> Ask | None:
    """Make the smallest request that a model should answer: a row of zeros, or a picture or text.

    Returns:
        None where none can be made: foreign BYTES, sequences, decoupled models, huge inputs.
    """
    if not known.plain or not known.inputs:
        return None
    arrays: dict[str, Array] = {}
    for port in known.inputs:
        array = _row(port)
        if array is None:
            return None
        arrays[port.name] = array[np.newaxis] if known.batches else array
    return Ask(model=known.name, arrays=arrays)


def ask_tier(entry: Known, tier: int) -> Ask | None:
    """Make a request that one tier of a cascade must answer, through everything before it.

    Args:
        entry: The ensemble, or a router alone.
        tier: 0 = cheapest.
    """
    whole = ask_model(entry)
    if whole is None:
        return None
    only = {"cascade_min_tier": tier, "cascade_max_tier": tier}
    return Ask(model=whole.model, arrays=whole.arrays, parameters=only)


def cascades_of(known: Mapping[str, Known]) -> dict[str, Known]:
    """Find the cascades among models by the names the builder gives: X_router with X_control.

    Returns:
        By the cascade's name, where a request enters: the ensemble, or the router without one.
    """
    found = {}
    for name in known:
        cascade = name.removesuffix("_router")
        if name != cascade and f"{cascade}_control" in known:
            found[cascade] = known.get(cascade, known[name])
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a control model tells of its cascade.

    Attributes:
        tiers: Models of the tiers, cheapest first; empty: not told.
        in_force: Which version of a model answers clients, by model; those that are told.
    """

    tiers: tuple[str, ...] = ()
    in_force: Mapping[str, str] = field(default_factory=dict)


def shown(cascade: str, reply: Reply) -> Shown:
    """Read the reply of a cascade's control model; what it does not tell stays empty."""
    raw = reply.outputs.get("REPLY", b"")
    if reply.outcome is not Outcome.ANSWERED or len(raw) < 4:
        return Shown()
    try:
        told = json.loads(raw[4:])
        return Shown(
            tiers=tuple(str(tier["model"]) for tier in told["policy"]["tiers"]),
            in_force=_in_force(cascade, told),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return Shown()


def _in_force(cascade: str, told: Mapping[str, Any]) -> dict[str, str]:
    experts = told.get("manifest", {}).get("experts", ())
    found = {str(one["model"]): str(one["version"]) for one in experts if "version" in one}
    if "router_version" in told:
        found[f"{cascade}_router"] = str(told["router_version"])
    return found


def _row(port: Port) -> Array | None:
    shape = tuple(max(side, 1) for side in port.shape)
    if port.datatype in ("STRING", "BYTES"):
        content = _content(port.name)
        if content is None:
            return None
        cell = np.empty(shape, dtype=object)
        cell[...] = content
        return cell if cell.size == 1 else None
    dtype = _DTYPES.get(port.datatype)
    if dtype is None or _bytes_of(shape, dtype) > _MOST_BYTES:
        return None
    return np.zeros(shape, dtype=dtype)


def _bytes_of(shape: Sequence[int], dtype: npt.DTypeLike) -> int:
    size = np.dtype(dtype).itemsize
    for side in shape:
        size *= side
    return size


def _content(name: str) -> bytes | None:
    match name:
        case "IMAGE":
            return _grey_png(8)
        case "TEXT":
            return b"a"
        case "COMMAND":
            return json.dumps({"do": "show"}).encode()
        case _:
            return None


def _grey_png(side: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\x80" * side) * side)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
