"""The preprocessing model of a text cascade: TEXT bytes in, TOKENS out.

Config: ``parameters`` with ``length``, ``pad`` and ``truncate``; ``tokenizer.json`` lies beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import RequestError
from .text import Tokeniser
from .triton_io import Array, answered, config_of, input_of, parameter, response

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """Tokenises texts; a bad one fails its own request only."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokeniser."""
        config = config_of(args)
        folder = Path(args["model_repository"]) / args["model_version"]
        self._length = int(parameter(config, "length", "0"))
        self._tokeniser = Tokeniser(
            (folder / "tokenizer.json").read_text(encoding="utf-8"),
            length=self._length,
            pad=int(parameter(config, "pad", "0")),
            truncate=parameter(config, "truncate", "false") == "true",
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request on its own."""
        return [answered(request, self._answer) for request in requests]

    def _answer(self, request: Any) -> Any:
        return response([("TOKENS", self._tokens(input_of(request, "TEXT")))])

    def _tokens(self, texts: Array) -> Array:
        """(n, 1) texts as bytes to (n, L) int64."""
        rows = texts.reshape(-1)
        tokens = np.empty((len(rows), self._length), dtype=np.int64)
        for i, data in enumerate(rows):
            try:
                tokens[i] = self._tokeniser.tokens(data)
            except RequestError as error:
                if len(rows) == 1:
                    raise
                message = f"row {i}: {error.message}"
                raise RequestError(message, hint=error.hint) from error
        return tokens
