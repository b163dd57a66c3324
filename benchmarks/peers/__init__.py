"""What people do today instead, written as well as the documentation they follow teaches.

`peer` is the door: what a peer is given, and how a harness loads it.
"""

from .alone import PyTritonCascade, RayServeCascade
from .client_cascade import ClientCascade
from .on_triton import PerRequestBls, RunAll
from .peer import Loadable, Peer, Setup, Tier

__all__ = ["PEERS", "Loadable", "Peer", "Setup", "Tier"]

PEERS: tuple[Peer, ...] = (
    PerRequestBls(),
    ClientCascade(),
    RunAll(),
    PyTritonCascade(),
    RayServeCascade(),
)
"""All of them, as they are compared."""
