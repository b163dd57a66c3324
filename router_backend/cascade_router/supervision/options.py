"""What ``cascade-serve`` was asked for: its own flags; all others go to tritonserver."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from cascade_router.errors import ServerError
from cascade_router.keys import FILE_VARIABLE

__all__ = ["LOOPBACK", "USAGE", "Options", "reachable"]

LOOPBACK = "127.0.0.1"

USAGE = """\
Usage: cascade-serve [--model-repository DIR] [options] [tritonserver flags]

Start the real tritonserver on DIR (default: model_repository) in the foreground and look after it:
canaries go through every model and every tier, a model whose process died is loaded anew, a server
that died is started anew, and what they left is removed. SIGTERM drains, then stops.

  --http-port N (8000)  --grpc-port N (8001)  --metrics-port N (8002)
  --health-port N (8003; 0: any)   GET /ready says truly whether it serves, /live whether this runs
  --http-address A, --grpc-address A, --metrics-address A, --health-address A
                        where to listen; default 127.0.0.1; another needs --expose and --keys
  --expose              let other machines in
  --keys FILE           keys for model control and policy changes (or CASCADE_KEYS=FILE)
  --new-keys FILE       write such a file, and end
  --watch HOST:PORT     look after a tritonserver that runs already (its gRPC port); start none
  --look-s S (3)        between canaries
  --drain-s S (20)      for requests under way after SIGTERM; a second SIGTERM stops at once

All other flags go to tritonserver as they are and win over ours.
"""

_PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002, "health": 8003}
_GUARDS = ("--http-restricted-api", "--grpc-restricted-protocol")
_BARE = "--disable-auto-complete-config"  # of tritonserver's, the one without a value
_OTHER_DOORS = ("--allow-sagemaker", "--allow-vertex-ai")
_TRUE = ("", "true", "on", "1")  # to tritonserver, in capitals too
_FLAG = re.compile(r"--[a-z][a-z0-9-]*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line, checked.

    Attributes:
        repository: The model repository.
        ports: By name: http, grpc, metrics, health.
        hosts: Addresses to listen on, by the same names.
        expose: Whether addresses other than loopback are meant.
        keys: The key file; None: nothing is guarded.
        new_keys: Key file to write instead of serving.
        watch: ``host:port`` of a server that runs already.
        look_s: Seconds between canaries.
        drain_s: Seconds that requests under way may take.
        rest: Flags for tritonserver.
        help: Whether only the usage is wanted.
    """

    repository: Path = Path("model_repository")
    ports: Mapping[str, int] = field(default_factory=lambda: dict(_PORTS))
    hosts: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(_PORTS, LOOPBACK))
    expose: bool = False
    keys: Path | None = None
    new_keys: Path | None = None
    watch: str | None = None
    look_s: float = 3.0
    drain_s: float = 20.0
    rest: tuple[str, ...] = ()
    help: bool = False

    @classmethod
    def parse(cls, flags: Sequence[str], environment: Mapping[str, str] = os.environ) -> Options:
        """Read ``--key value`` and ``--key=value``.

        Raises:
            ServerError: Names the flag and what it expects.
        """
        joined = _joined(flags)
        if "--help" in joined or "-h" in joined:
            return cls(help=True)
        taken: dict[str, str] = {}
        rest: list[str] = []
        for flag in joined:
            key, _, value = flag.partition("=")
            if key in _OURS:
                if _OURS[key] == "repository" and "repository" in taken:
                    # To tritonserver that is one more, which we would leave out without a word.
                    _refuse(f"{key}: got a second one", "it serves one model repository")
                taken[_OURS[key]] = _checked(key, flag, value)
            else:
                rest.append(flag)
        keys = taken.get("keys") or environment.get(FILE_VARIABLE)
        options = cls(
            repository=Path(taken.get("repository", "model_repository")),
            ports={
                name: _whole(
                    f"--{name}-port", taken.get(f"{name}-port"), usual, int(name != "health")
                )
                for name, usual in _PORTS.items()
            },
            hosts={name: _host(name, taken.get(f"{name}-address")) for name in _PORTS},
            expose="expose" in taken,
            keys=Path(keys) if keys else None,
            new_keys=Path(taken["new-keys"]) if taken.get("new-keys") else None,
            watch=taken.get("watch"),
            look_s=_seconds("--look-s", taken.get("look-s"), 3.0, 0.2),
            drain_s=_seconds("--drain-s", taken.get("drain-s"), 20.0, 0.0),
            rest=tuple(rest),
        )
        options._check()
        return options

    @property
    def serves_http(self) -> bool:
        """Whether tritonserver is to listen for HTTP; the last flag counts."""
        said = [flag for flag in self.rest if flag.startswith("--allow-http=")]
        return not said or _on(said[-1])

    def _check(self) -> None:
        for flag in self.rest:
            _check_passed_on(flag)
        outside = [name for name, host in self.hosts.items() if not _is_loopback(host)]
        if outside and not self.expose:
            what = f"--{outside[0]}-address={self.hosts[outside[0]]}"
            _refuse(
                f"{what} lets other machines in", "if that is meant, add --expose and --keys FILE"
            )
        if self.expose and self.keys is None and self.watch is None:
            hint = "`cascade-serve --new-keys FILE` makes them; then --keys FILE"
            _refuse("--expose needs keys for model control and policy changes", hint)


def reachable(host: str) -> str:
    """Name the address by which this machine itself reaches what listens on ``host``."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


_OURS: dict[str, str] = {
    **{f"--{name}-{what}": f"{name}-{what}" for name in _PORTS for what in ("port", "address")},
    **{f"--{key}": key for key in ("expose", "keys", "new-keys", "watch", "look-s", "drain-s")},
    "--model-repository": "repository",
    "--model-store": "repository",
}
_LOOKED_AT = (
    *_OURS,
    *_GUARDS,
    *_OTHER_DOORS,
    *("--allow-http", "--allow-grpc", "--grpc-use-ssl", "--grpc-use-ssl-mutual"),
    *("--model-control-mode", "--load-model", "--exit-timeout-secs", "--backend-directory"),
    "--backend-config",
)
"""What is known by its name, here or where the server is started."""


def _check_passed_on(flag: str) -> None:
    """Refuse a flag for tritonserver that would undo what guards it, or hinder who looks after it.

    Raises:
        ServerError: Names it.
    """
    key, _, _ = flag.partition("=")
    if flag == _BARE:
        return
    if not _FLAG.fullmatch(flag):
        # One without a value would take the next flag for it, which may be the one with the key.
        hint = f"every flag of tritonserver takes a value, but {_BARE}"
        _refuse(f"got {flag!r}, expected --flag=value", hint)
    meant = [name for name in _LOOKED_AT if name.startswith(key) and name != key]
    if meant and key not in _LOOKED_AT:
        _refuse(f"{key} is short for {meant[0]}, to tritonserver", "write the flag out")
    if key in _GUARDS:
        hint = "give --keys FILE: a key on a command line is seen by every user"
        _refuse(f"{key} is set from the key file", hint)
    if key in _OTHER_DOORS and _on(flag):
        hint = "run tritonserver alone, behind a gateway of yours"
        _refuse(f"{flag}: that door asks for no key", hint)
    # Tritonserver takes even --grpc-use-ssl-mutual=false for TLS.
    tls = key == "--grpc-use-ssl-mutual" or (key == "--grpc-use-ssl" and _on(flag))
    if tls or (key == "--allow-grpc" and not _on(flag)):
        hint = "put a TLS proxy before it, or run tritonserver alone"
        _refuse(f"{flag}: it looks after its server by plain gRPC", hint)


def _checked(key: str, flag: str, value: str) -> str:
    """Refuse a flag of ours with a value where it takes none, or without where it needs one."""
    if key == "--expose" and flag != key:
        _refuse(f"--expose takes no value, got {value!r}", "leave it out to expose nothing")
    if not value and _OURS[key] in ("keys", "new-keys", "watch", "repository"):
        _refuse(f"{key}: got no value", f"{key}=..., or leave it out")
    return value


def _host(name: str, given: str | None) -> str:
    """Write an address as the server takes it.

    Raises:
        ServerError: If tritonserver would take it for another: its HTTP server knows neither names
            nor IPv6, and listens where nobody finds it.
    """
    host = LOOPBACK if given in (None, "", "localhost") else str(given)
    if name in ("http", "metrics"):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            hint = "127.0.0.1, 0.0.0.0, or the address of an interface of this machine"
            _refuse(f"--{name}-address: got {host!r}, expected an address, IPv4 only", hint)
    return host


def _joined(flags: Sequence[str]) -> list[str]:
    """Write ``--key value`` as ``--key=value``."""
    joined: list[str] = []
    for flag in flags:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and flag[:2] != "--":
            joined[-1] += f"={flag}"
        else:
            joined.append(flag)
    return joined


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _on(flag: str) -> bool:
    return flag.partition("=")[2].lower() in _TRUE


def _whole(key: str, text: str | None, usual: int, low: int) -> int:
    if text is None:
        return usual
    if not (text.isascii() and text.isdecimal() and low <= int(text) < 65536):
        _refuse(f"{key}: got {text!r}, expected a port", f"{key}={usual}, say")
    return int(text)


def _seconds(key: str, text: str | None, usual: float, low: float) -> float:
    return usual if text is None else _number(key, text, low)


def _number(key: str, text: str, low: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= 3600:
        _refuse(f"{key}: got {text!r}, expected seconds, {low:g} to 3600", f"{key}=5, say")
    return value


def _refuse(what: str, hint: str) -> NoReturn:
    message = f"cascade-serve: {what}"
    raise ServerError(message, hint=hint)
