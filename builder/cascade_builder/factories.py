"""``module:function``: how a spec names Python code, and how that code is found and run.

A module beside ``cascade.toml`` is found like an installed one.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_router.errors import SpecError

__all__ = ["Factory", "check_arguments"]

_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Factory:
    """A function named in a spec.

    Attributes:
        module: Dotted name of its module.
        function: Its name there.
        folder: Folder of the spec; modules in it are found first.
    """

    module: str
    function: str
    folder: Path

    @classmethod
    def parse(cls, text: str, folder: Path, where: str) -> Factory:
        """Read ``module:function``.

        Raises:
            SpecError: If it is written otherwise.
        """
        if _PATTERN.fullmatch(text) is None:
            message = f"{where}: got {text!r}, expected 'module:function'"
            raise SpecError(message, hint="for example 'my_experts:small'")
        module, function = text.split(":")
        return cls(module, function, folder)

    def __str__(self) -> str:
        return f"{self.module}:{self.function}"

    def source(self) -> Path:
        """Find the module's file without running the module.

        Raises:
            SpecError: If there is no such module.
        """
        with self._found_first():
            try:
                found = importlib.util.find_spec(self.module)
            except ModuleNotFoundError:
                found = None
        if found is None or found.origin is None or not Path(found.origin).is_file():
            message = f"factory {str(self)!r}: there is no module {self.module!r}"
            raise SpecError(message, hint="install its package, or put the file beside the spec")
        return Path(found.origin)

    def run(self, arguments: Mapping[str, Any]) -> Any:
        """Call the function. What it prints goes to stderr: stdout is for results.

        Raises:
            SpecError: If there is no such module or function. What the function raises passes.
        """
        with self._found_first(), contextlib.redirect_stdout(sys.stderr):
            return self._function(self.function)(**arguments)

    def run_beside(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Call another function of the same module; None if it has none of that name."""
        with self._found_first(), contextlib.redirect_stdout(sys.stderr):
            module = self._load()
            if not hasattr(module, function):
                return None
            return getattr(module, function)(**arguments)

    def _function(self, name: str) -> Any:
        function = getattr(self._load(), name, None)
        if not callable(function):
            message = f"factory {str(self)!r}: the module has no function {name!r}"
            raise SpecError(message, hint=f"define it in {self.source().name}")
        return function

    def _load(self) -> Any:
        self.source()
        return importlib.import_module(self.module)

    @contextlib.contextmanager
    def _found_first(self) -> Iterator[None]:
        """Put the spec's folder first on the path, and forget its modules afterwards.

        Two specs may both have an ``experts.py``, and a file may change between two builds of one
        process, so modules of the folder are not kept.
        """
        before = set(sys.modules)
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()
        try:
            yield
        finally:
            with contextlib.suppress(ValueError):
                sys.path.remove(str(self.folder))
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                if file is not None and Path(file).parent == self.folder:
                    del sys.modules[name]


def check_arguments(values: object, where: str) -> None:
    """Refuse arguments that JSON cannot carry: they are part of what identifies an expert.

    Raises:
        SpecError: Names the first.
    """
    match values:
        case Mapping():
            for key, value in values.items():
                check_arguments(value, f"{where}.{key}")
        case list():
            for value in values:
                check_arguments(value, where)
        case str() | bool() | int():
            pass
        case float() if math.isfinite(values):
            pass
        case _:
            message = f"{where}: got {values!r}, expected text, a number, true or false"
            raise SpecError(message, hint="write dates and infinities as text")
