"""The keys of a guarded server: who may control it, and who may switch its policy.

They lie in a file that nobody else may read, never on a command line::

    control = "…"    # load and unload models, shared memory, trace and log settings
    policy = "…"     # switch the operating point

A server needs both; who may only switch gets a file with ``policy`` alone. Made by
``cascade-serve --new-keys FILE``.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from .errors import ServerError

__all__ = ["FILE_VARIABLE", "GRPC_HEADER", "GUARDED", "HEADER", "Keys"]

HEADER = "cascade-key"
"""HTTP header that carries the control key."""

GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"
"""gRPC metadata key that carries it; the prefix is Triton's."""

GUARDED = ("model-repository", "shared-memory", "trace", "logging")
"""Triton's interfaces that want the control key."""

FILE_VARIABLE = "CASCADE_KEYS"
"""Environment variable that names the key file: for the control model inside a server, and for
whoever does not want to name it on each command line."""

_KEY = re.compile(r"[A-Za-z0-9_-]{20,200}")
_NAMES = ("control", "policy")
_MOST_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What a key file holds; printing it shows no key.

    Attributes:
        control: For Triton's guarded interfaces; None: not given.
        policy: For switching the operating point; None: not given.
    """

    control: str | None = field(default=None, repr=False)
    policy: str | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Keys:
        """Read a key file.

        Raises:
            ServerError: If it cannot be read, others may read it, or it holds something else. No
                message says what stands in it.
        """
        try:
            # At once, also where a pipe lies there that nobody writes to.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(handle, "rb") as file:
                _check_rights(path, os.fstat(handle))
                values = tomllib.loads(file.read(_MOST_BYTES).decode())
        except OSError as exc:
            message = f"{path}: the key file cannot be read: {exc.strerror}"
            raise ServerError(message, hint=_HOW_TO_MAKE) from exc
        except (ValueError, RecursionError):
            # Without the cause: it would quote the file.
            _refuse(path, "is no key file")
        for name, value in values.items():
            if name not in _NAMES:
                _refuse(path, f"holds more than {' and '.join(_NAMES)}")
            if not isinstance(value, str) or not _KEY.fullmatch(value):
                _refuse(path, f"{name}: expected 20 to 200 letters, digits, - or _")
        if not values:
            _refuse(path, "holds no key")
        return cls(**values)

    @classmethod
    def create(cls, path: Path) -> Keys:
        """Write a new key file that its owner alone may read.

        Raises:
            ServerError: If it cannot be written, or is there already.
        """
        keys = cls(control=secrets.token_urlsafe(32), policy=secrets.token_urlsafe(32))
        text = (
            "# load and unload models, shared memory, trace and log settings\n"
            f'control = "{keys.control}"\n'
            "# switch the operating point\n"
            f'policy = "{keys.policy}"\n'
        )
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            message = f"{path}: the key file cannot be written: {exc.strerror}"
            raise ServerError(message, hint="name a file that is not there yet") from exc
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
        return keys

    def check_for_server(self) -> None:
        """Refuse to guard a server with half of what it takes.

        Raises:
            ServerError: Names the key that is missing.
        """
        for name in _NAMES:
            if getattr(self, name) is None:
                message = f"the key file holds no {name!r} key"
                raise ServerError(message, hint=_HOW_TO_MAKE)

    def allows_policy(self, given: str | None) -> bool:
        """Say whether the holder of a key may switch the operating point.

        The time it takes tells nothing about the key. Where the file holds no ``policy``, nobody
        may.
        """
        if self.policy is None or given is None:
            return False
        # JSON can hold what is no character.
        return hmac.compare_digest(self.policy.encode(), given.encode(errors="surrogatepass"))


_HOW_TO_MAKE = "make one with `cascade-serve --new-keys FILE`"


def _check_rights(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        _refuse(path, "is no file")
    if found.st_uid not in (os.geteuid(), 0):
        message = f"{path}: the key file belongs to user {found.st_uid}, not to you"
        raise ServerError(message, hint="copy it, and keep the copy for yourself: chmod 600")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        message = f"{path}: others may read the key file (mode {mode:04o}), expected 0600"
        raise ServerError(message, hint=f"chmod 600 {path}")


def _refuse(path: Path, what: str) -> NoReturn:
    message = f"{path}: {what}"
    raise ServerError(message, hint=_HOW_TO_MAKE)
