"""From what people write for a class, its name or its number, to the number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

from cascade_router.errors import RecordsError
from cascade_router.strict import suggestion

__all__ = ["ClassNumbers"]

_HINT = "give class numbers or names; other names: --labels FILE, one a line in class order"


class ClassNumbers:
    """Knows the classes of a cascade.

    Args:
        n_classes: C.
        names: Gives C names in the order of the logits, or None if there are none; it is asked
            when a text that is no number must be read.
    """

    def __init__(self, n_classes: int, names: Callable[[], Sequence[str] | None]) -> None:
        self.n_classes = n_classes
        self._names = names

    def of(self, text: str, where: str) -> int:
        """Read a class: a name first, since names may be digits, then a number.

        Args:
            text: As it stands in the data set.
            where: What to call it in a message.

        Raises:
            RecordsError: If it is no class, or the name of several.
        """
        found = self._by_name.get(_plain(text), [])
        if len(found) > 1:
            numbers = ", ".join(map(str, found))
            message = f"{where}: {text!r} is the name of classes {numbers}"
            raise RecordsError(message, hint="give class numbers instead of names")
        if found:
            return found[0]
        try:
            number = int(text)
        except ValueError:
            message = f"{where}: {text!r} is no class of this cascade"
            near = suggestion(_plain(text), list(self._by_name)) if self._by_name else ""
            hint = f"{near} {_HINT}" if near.startswith("did you mean") else _HINT
            raise RecordsError(message, hint=hint) from None
        self.check(number, where)
        return number

    def check(self, number: int, where: str) -> None:
        """Refuse a number that is no class."""
        if not 0 <= number < self.n_classes:
            message = f"{where}: got label {number}, expected 0 to {self.n_classes - 1}"
            raise RecordsError(message, hint="labels are positions in the experts' logits, from 0")

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self._names() or ()):
            found.setdefault(_plain(name), []).append(number)
        return found


def _plain(name: str) -> str:
    """Make names alike that differ in case, underscores and spaces: folders are named freely."""
    return " ".join(name.replace("_", " ").casefold().split())
