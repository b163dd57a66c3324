"""``kind = "text"`` in ``[input]``: which tokeniser makes the rows, and the rows it makes.

Shapes: L ids of one row.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cascade_router.errors import BuildError, RecordsError, RequestError, SpecError
from cascade_router.strict import Table
from cascade_router.text import Tokeniser

__all__ = ["Text"]

_NAME = "tokenizer.json"
_LONGEST = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """How a text becomes token ids.

    Attributes:
        tokenizer: A ``tokenizer.json`` of the tokenizers library.
        length: L; shorter texts are filled up.
        pad: Id that fills up; None: as the tokeniser says.
        truncate: Longer texts are cut off; else they are refused.
    """

    tokenizer: Path
    length: int
    pad: int | None = None
    truncate: bool = False

    @classmethod
    def read(cls, table: Table, folder: Path) -> Text:
        """Take the keys of a text input from a spec's ``[input]``.

        Args:
            table: It.
            folder: What a relative path starts at.

        Raises:
            SpecError: If there is no such file.
        """
        return cls(
            tokenizer=_file(table, folder),
            length=table.whole("length", low=2, high=_LONGEST),
            pad=table.whole("pad", high=2**31) if table.has("pad") else None,
            truncate=table.flag("truncate", False),
        )

    @property
    def described(self) -> dict[str, Any]:
        """Say what rows depend on besides their length, JSON-able.

        Raises:
            SpecError: If the tokeniser cannot be read.
        """
        digest = hashlib.sha256(self._content()).hexdigest()
        return {"tokenizer": f"sha256:{digest}", "pad": self.pad, "truncate": self.truncate}

    @property
    def parameters(self) -> Mapping[str, str]:
        """Say what the preprocessing model is configured with."""
        pad = self._opened().pad
        return {"length": str(self.length), "pad": str(pad), "truncate": str(self.truncate).lower()}

    def row(self, value: Any, where: str) -> npt.NDArray[np.int64]:
        """Make a row of a text as the served preprocessing model does.

        Args:
            value: Text, or its bytes.
            where: What to call it in a message.

        Returns:
            (L,) int64.

        Raises:
            RecordsError: If it is no text, or one that is refused.
        """
        if not isinstance(value, str | bytes):
            message = f"{where}: got {type(value).__name__}, expected text or its bytes in UTF-8"
            raise RecordsError(message, hint="a row of a text cascade is one text")
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        try:
            return self._opened().tokens(data)
        except RequestError as exc:
            message = f"{where}: {exc.message}"
            raise RecordsError(message, hint=exc.hint) from exc

    def _content(self) -> bytes:
        try:
            return self.tokenizer.read_bytes()
        except OSError as exc:
            message = f"{self.tokenizer}: the tokeniser cannot be read: {exc}"
            raise SpecError(message, hint="check its rights") from exc

    def _opened(self) -> Tokeniser:
        try:
            stat = self.tokenizer.stat()
        except OSError as exc:
            message = f"{self.tokenizer}: the tokeniser cannot be read: {exc}"
            raise SpecError(message, hint="was it moved?") from exc
        return _tokeniser(self, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _tokeniser(text: Text, n_bytes: int, mtime_ns: int) -> Tokeniser:
    """Open a tokeniser; one that changed is opened again."""
    try:
        content = text._content().decode("utf-8")
        return Tokeniser(content, length=text.length, pad=text.pad, truncate=text.truncate)
    except ModuleNotFoundError as exc:
        message = f"input: the package {exc.name!r} is not installed"
        raise BuildError(message, hint="pip install 'triton-cascade[text]'") from exc
    except UnicodeDecodeError as exc:
        message = f"{text.tokenizer}: is not UTF-8: {exc}"
        raise SpecError(message, hint=f"give a {_NAME} of the tokenizers library") from exc
    except SpecError as exc:
        message = f"{text.tokenizer}: {exc.message.removeprefix(f'{_NAME}: ')}"
        raise SpecError(message, hint=exc.hint) from exc


def _file(table: Table, folder: Path) -> Path:
    """Find the tokeniser: a path, or PACKAGE:PATH for a file that an installed package carries."""
    text = table.text("tokenizer", _NAME)
    where = f"{table.where}.tokenizer"
    package, colon, inside = text.partition(":")
    if not colon:
        path = folder / Path(text).expanduser()
        if path.is_file():
            return path
        message = f"{where}: there is no file {str(path)!r}"
        raise SpecError(message, hint=f"give a {_NAME}, or PACKAGE:PATH of one in a package")
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        found = None
    for root in found.submodule_search_locations or () if found is not None else ():
        path = Path(root) / inside
        if path.is_file():
            return path
    message = f"{where}: there is no {inside!r} in a package {package!r}"
    raise SpecError(message, hint=f"pip install {package.replace('_', '-')}, or give a path")
