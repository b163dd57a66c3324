"""Read a table from JSON or TOML and refuse what is not expected.

The router runs where nothing is installed, so this is standard library only; the builder's spec
reads through the same door, and both refuse an unknown key in the same words.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from .errors import CascadeError

__all__ = ["Table", "suggestion"]

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_REQUIRED: Any = object()


def suggestion(word: str, choices: list[str]) -> str:
    """Say which of ``choices`` the writer may have meant, or list them."""
    near = difflib.get_close_matches(word, choices, n=1)
    return f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(choices)}"


def _float(value: float) -> float:
    """Convert a number; inf for a whole one that is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


class Table:
    """A mapping whose keys are taken one by one; ``done`` refuses the rest.

    Args:
        values: The parsed mapping.
        where: What to call it in a message, such as ``cascade.toml: tiers[1]``.
        error: Class of the error to raise.
    """

    def __init__(self, values: object, where: str, error: type[CascadeError]) -> None:
        self.where = where
        self._error = error
        if not isinstance(values, Mapping):
            self._refuse(f"{where}: expected a table, got {type(values).__name__}")
        self._left: dict[str, Any] = dict(values)
        self._known: list[str] = []

    def text(self, key: str, default: str = _REQUIRED) -> str:
        """Take a text."""
        return str(self._take(key, str, default))

    def whole(
        self, key: str, default: int = _REQUIRED, *, low: int = 0, high: float = math.inf
    ) -> int:
        """Take a whole number in [low, high]."""
        value = int(self._take(key, int, default))
        if not low <= value <= high:
            self._refuse(f"{self.where}.{key}: got {value}, expected {low} to {high}")
        return value

    def number(
        self,
        key: str,
        default: float = _REQUIRED,
        *,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> float:
        """Take a finite number in [low, high]."""
        value = float(self._take(key, float, default))
        if not (math.isfinite(value) and low <= value <= high):
            self._refuse(f"{self.where}.{key}: got {value}, expected {low} to {high}")
        return value

    def flag(self, key: str, default: bool = _REQUIRED) -> bool:
        """Take true or false."""
        return bool(self._take(key, bool, default))

    def choice(self, key: str, choices: list[str], default: str = _REQUIRED) -> str:
        """Take a text that is one of ``choices``."""
        value = self.text(key, default)
        if value not in choices:
            self._refuse(f"{self.where}.{key}: got {value!r}", suggestion(value, choices))
        return value

    def table(self, key: str, default: Mapping[str, Any] = _REQUIRED) -> Table:
        """Take a table inside this one."""
        return Table(self._take(key, Mapping, default), f"{self.where}.{key}", self._error)

    def tables(self, key: str) -> Iterator[Table]:
        """Take a list of tables."""
        for i, values in enumerate(self.items(key)):
            yield Table(values, f"{self.where}.{key}[{i}]", self._error)

    def items(self, key: str, default: list[Any] = _REQUIRED) -> list[Any]:
        """Take a list of anything."""
        return list(self._take(key, list, default))

    def numbers(self, key: str, default: list[float] = _REQUIRED) -> list[float]:
        """Take a list of finite numbers."""
        values = self.items(key, default)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                self._refuse(f"{self.where}.{key}: expected numbers, got {value!r}")
            if not math.isfinite(_float(value)):
                self._refuse(f"{self.where}.{key}: expected finite numbers, got {value!r}")
        return [float(value) for value in values]

    def has(self, key: str) -> bool:
        """Say whether the key is given (it still has to be taken)."""
        self._known.append(key)
        if self._left.get(key) is None:
            self._left.pop(key, None)
        return key in self._left

    def rest(self) -> dict[str, Any]:
        """Take everything that is left, whatever it is."""
        left, self._left = self._left, {}
        return left

    def done(self) -> None:
        """Refuse keys nobody asked for."""
        for key in self._left:
            known = sorted(set(self._known))
            self._refuse(f"{self.where}.{key} is not a key", suggestion(key, known))

    def _take(self, key: str, kind: type, default: Any) -> Any:
        self._known.append(key)
        value = self._left.pop(key, None)
        if value is None:
            if default is _REQUIRED:
                self._refuse(f"{self.where}: the key {key!r} is missing")
            return default
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return _float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            expected = _NAMES.get(kind, f"a {kind.__name__.lower()}")
            self._refuse(f"{self.where}.{key}: got {value!r}, expected {expected}")
        return value

    def _refuse(self, message: str, hint: str | None = None) -> NoReturn:
        raise self._error(message, hint=hint)
