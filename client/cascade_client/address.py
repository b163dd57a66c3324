"""Where the server is and which protocol it speaks there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Address"]

_URL = re.compile(
    r"(?:(?P<scheme>[a-z]+)://)?(?P<host>\[[0-9a-f:]+\]|[^:/\s]+)(?::(?P<port>\d+))?/?"
)
_PORTS: dict[str, int] = {"grpc": 8001, "http": 8000}


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address.

    Attributes:
        scheme: The protocol.
        host: Name or number of the machine.
        port: Its port.
    """

    scheme: Literal["grpc", "http"]
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``grpc://host:port``, ``http://host:port`` or ``host:port`` (gRPC).

        A missing port is Triton's own for the protocol: 8001 or 8000.

        Raises:
            ValueError: If it is none of these.

        >>> str(Address.parse("gpu-box"))
        'grpc://gpu-box:8001'
        """
        match = _URL.fullmatch(url.strip())
        scheme = (match["scheme"] or "grpc") if match else ""
        if match is None or scheme not in _PORTS:
            message = f"url {url!r}: expected grpc://host:port, http://host:port or host:port"
            raise ValueError(message)
        port = int(match["port"] or _PORTS[scheme])
        if not 0 < port < 65536:
            message = f"url {url!r}: got port {port}, expected 1 to 65535"
            raise ValueError(message)
        return cls("http" if scheme == "http" else "grpc", match["host"], port)

    @property
    def netloc(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"
