"""Holds a model repository against what Triton is known to do, before a server has to.

    models <- rule <- files, serving, tensorrt, cascade <- here

Every rule says what is wrong in which model, why it matters and what to do. What a rule says of
Triton was seen on a real server or stands in its sources; a test shows that Triton 2.51 refuses
what is called refused here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from . import cascade, files, serving, tensorrt
from .models import Model, read, staged
from .rule import Finding, Rule

__all__ = ["RULES", "Finding", "Model", "check", "check_staged"]

RULES: Sequence[Rule] = (*files.RULES, *serving.RULES, *tensorrt.RULES, *cascade.RULES)


def check(folders: Sequence[Path]) -> tuple[list[str], list[Finding]]:
    """Hold a repository against all rules.

    Args:
        folders: Model repositories that one server loads together.

    Returns:
        The names of the models, and what was found, in their order; errors of a model first.

    Raises:
        BuildError: If one is no model repository.
    """
    models = read(folders)
    return [model.name for model in models], list(_found(models, RULES))


def check_staged(root: Path, staging: Path, removed: Collection[str]) -> list[Finding]:
    """Hold what is about to be laid out against the rules, beside what stays.

    What the build itself has seen to, such as the digests of files, is left out.

    Args:
        root: The model repository; need not exist.
        staging: Holds the folders that take their place in it.
        removed: Names of folders that leave it.

    Returns:
        What was found in the staged folders.
    """
    rules = [rule for rule in RULES if rule.when_staged]
    models = staged(root, staging, removed)
    return [one for one in _found(models, rules) if (staging / one.model).is_dir()]


def _found(models: Sequence[Model], rules: Sequence[Rule]) -> Iterator[Finding]:
    for model in models:
        # Of a config that cannot be read nothing else can be said.
        known = rules if model.problem is None else [files.readable]
        found = [finding for rule in known for finding in rule.findings(model)]
        yield from sorted(found, key=lambda one: one.level)  # stable; "error" before "warning"
