"""Which GPUs this machine has, asked of the driver itself; nothing is initialised beyond that."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

__all__ = ["Gpu", "gpus"]

_MAJOR, _MINOR = 75, 76
"""Numbers of the attributes that tell the compute capability, from cuda.h."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: As the driver calls it.
        capability: Its compute capability, such as ``9.0``.
    """

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})"


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """List the GPUs that a process started here may use; empty without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    return tuple(_gpu(cuda, number) for number in range(count.value))


def _gpu(cuda: ctypes.CDLL, number: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    cuda.cuDeviceGet(ctypes.byref(device), number)
    cuda.cuDeviceGetName(name, len(name), device)
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        parts.append(value.value)
    return Gpu(name.value.decode(errors="replace"), f"{parts[0]}.{parts[1]}")
