"""What a rule is, and what is found by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

from .models import Model

__all__ = ["ERROR", "WARNING", "Finding", "Rule", "rule"]

Level = Literal["error", "warning"]
Look = Callable[[Model], Iterator[str]]

ERROR: Level = "error"
"""It does not load, or answers wrongly."""

WARNING: Level = "warning"
"""It costs something, or does not do what it seems to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A rule that a model breaks; fields as in ``Rule``.

    Attributes:
        model: Its name.
        what: What is wrong with it.
    """

    rule: str
    level: Level
    model: str
    what: str
    why: str
    fix: str

    def as_json(self) -> dict[str, str]:
        """Write for machines."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Something that is known to go wrong.

    Attributes:
        name: Of few words.
        level: ``ERROR`` or ``WARNING``.
        why: What Triton does.
        fix: What to do.
        look: Says what is wrong with a model whose config can be read, once for each thing.
        when_staged: Whether a build looks at it too, before it lays a model out.
    """

    name: str
    level: Level
    why: str
    fix: str
    look: Look = field(repr=False)
    when_staged: bool = True

    def findings(self, model: Model) -> Iterator[Finding]:
        """Look at a model."""
        for what in self.look(model):
            yield Finding(
                rule=self.name,
                level=self.level,
                model=model.name,
                what=what,
                why=self.why,
                fix=self.fix,
            )


def rule(
    name: str, level: Level, *, why: str, fix: str, when_staged: bool = True
) -> Callable[[Look], Rule]:
    """Make a rule of the function that looks; arguments as in ``Rule``."""

    def made(look: Look) -> Rule:
        return Rule(name=name, level=level, why=why, fix=fix, look=look, when_staged=when_staged)

    return made
