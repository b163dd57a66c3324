"""The control model: what a running cascade tells about itself, as JSON over one BYTES tensor.

Commands: ``{"do": "show"}``; ``{"do": "set", "point": "fast", "who": "ann"}`` switches the default
point of every router instance within a second, and wants ``"key"`` where the server was given a
key file (environment variable `keys.FILE_VARIABLE`). Both are about the version of the router that
is in force when they come. Config: ``parameters`` with ``router``, the name of the router's model.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RequestError, ServerError
from .keys import FILE_VARIABLE, Keys
from .manifest import read_manifest
from .served import ServedPolicy
from .strict import Table
from .triton_io import answered, config_of, input_of, parameter, response
from .versions import folder_in_force

__all__ = ["TritonPythonModel"]

_WHERE = "input COMMAND"
_log = logging.getLogger(__name__)


class TritonPythonModel:
    """Answers commands about the policy."""

    def initialize(self, args: dict[str, str]) -> None:
        """Find the router's folder."""
        self._repository = Path(args["model_repository"]).parent
        self._cascade = parameter(config_of(args), "router", "").removesuffix("_router")
        self._folder = folder_in_force(self._repository, self._cascade)
        self._served = ServedPolicy(self._folder)
        self._commands = {"show": self._show, "set": self._set}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each command on its own."""
        return [answered(request, self._answer) for request in requests]

    def _answer(self, request: Any) -> Any:
        reply = self._reply(input_of(request, "COMMAND").reshape(-1)[0])
        return response([("REPLY", np.array([json.dumps(reply).encode()], dtype=np.object_))])

    def _reply(self, text: bytes) -> dict[str, Any]:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as exc:
            message = f"{_WHERE}: not JSON: {exc}"
            raise RequestError(message, hint='send {"do": "show"}') from exc
        command = Table(values, _WHERE, RequestError)
        self._follow()
        return self._commands[command.choice("do", sorted(self._commands))](command)

    def _follow(self) -> None:
        """Turn to the version in force: another may have taken over since the last command."""
        folder = folder_in_force(self._repository, self._cascade)
        if folder != self._folder:
            self._served = ServedPolicy(folder)
            self._folder = folder

    def _show(self, command: Table) -> dict[str, Any]:
        command.done()
        self._served.refresh()
        policy = self._served.policy
        return {
            "policy": json.loads(policy.to_json()),
            "manifest": read_manifest(self._folder),
            "default_point": policy.default,
            "history": list(self._served.switch.changes),
            "refused": self._served.refused,
            "labels": self._labels(),
            "router_version": int(self._folder.name),
        }

    def _set(self, command: Table) -> dict[str, Any]:
        point, who = command.text("point"), command.text("who", "unknown")
        key = command.text("key", "")
        command.done()
        _check_key(key)
        try:
            self._served.set_default(point, who[:100])
        except OSError as exc:
            message = f"switch.json: cannot be written: {exc.strerror}"
            raise ServerError(message, hint="is the model repository writable?") from exc
        return dict(self._served.switch.changes[-1])

    def _labels(self) -> list[str]:
        """Names of the classes; empty where the spec gives none."""
        path = self._folder / "labels.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _check_key(given: str) -> None:
    """Refuse a change without the key, where there is one; read anew, so that it can be changed.

    Raises:
        RequestError: If it is not the one.
        ServerError: If the file cannot be used: then nobody may.
    """
    path = os.environ.get(FILE_VARIABLE)
    if not path:
        return
    try:
        keys = Keys.read(Path(path))
    except ServerError as error:
        _log.error("policy changes are refused: %s", error)  # where it lies is nobody else's
        message = f"{_WHERE}: the server's key file cannot be used"
        raise ServerError(message, hint="the server's log says why") from error
    if not keys.allows_policy(given):
        message = f"{_WHERE}: this server lets only the holder of the policy key do that"
        raise RequestError(message, hint="cascade-client --keys FILE policy set POINT")
