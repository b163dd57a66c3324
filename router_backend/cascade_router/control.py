"""The control model: what a running cascade tells about itself, as JSON over one BYTES tensor.

Commands: ``{"do": "show"}``; ``{"do": "set", "point": "fast", "who": "ann"}`` switches the default
point of every router instance within a second. Config: ``parameters`` with ``router``, the name of
the router's model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .errors import CascadeError, RequestError, ServerError
from .manifest import read_manifest
from .served import ServedPolicy
from .strict import Table
from .triton_io import config_of, error_response, input_of, parameter, response

__all__ = ["TritonPythonModel"]

_WHERE = "input COMMAND"


class TritonPythonModel:
    """Answers commands about the policy."""

    def initialize(self, args: dict[str, str]) -> None:
        """Find the router's folder."""
        router = parameter(config_of(args), "router", "")
        self._folder = Path(args["model_repository"]).parent / router / args["model_version"]
        self._served = ServedPolicy(self._folder)
        self._commands = {"show": self._show, "set": self._set}

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each command on its own."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            reply = self._reply(input_of(request, "COMMAND").reshape(-1)[0])
        except CascadeError as error:
            return error_response(error)
        return response([("REPLY", np.array([json.dumps(reply).encode()], dtype=np.object_))])

    def _reply(self, text: bytes) -> dict[str, Any]:
        try:
            values = json.loads(text)
        except ValueError as exc:
            message = f"{_WHERE}: not JSON: {exc}"
            raise RequestError(message, hint='send {"do": "show"}') from exc
        command = Table(values, _WHERE, RequestError)
        return self._commands[command.choice("do", sorted(self._commands))](command)

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
        }

    def _set(self, command: Table) -> dict[str, Any]:
        point, who = command.text("point"), command.text("who", "unknown")
        command.done()
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
