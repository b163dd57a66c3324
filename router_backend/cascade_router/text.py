"""A text in, the token ids all experts share out.

The ``tokenizers`` library is imported where it is needed: the router itself runs without it.
Shapes: L ids of one row.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import numpy.typing as npt

from .errors import RequestError, SpecError

__all__ = ["MAX_BYTES", "Tokeniser"]

MAX_BYTES = 256 * 2**10
"""Longest text taken, in bytes: what a tokeniser reads in some ten milliseconds."""

_PADS = ("[PAD]", "<pad>", "<|pad|>", "<PAD>")
"""What tokenisers call the token that fills a row up."""


class Tokeniser:
    """A ``tokenizer.json`` and how its ids become a row.

    Args:
        text: The file's content.
        length: L.
        pad: Id that fills a row up; None: as the file says.
        truncate: Cut longer texts off, instead of refusing them.

    Attributes:
        pad: Id that fills a row up. No word of a text has it, so experts find their mask by it.

    Raises:
        SpecError: If the file cannot be read or names no padding.
    """

    def __init__(self, text: str, *, length: int, pad: int | None, truncate: bool) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(text)
        except Exception as exc:  # the library raises no class of its own
            message = f"tokenizer.json: cannot be read: {exc}"
            raise SpecError(
                message, hint="give the tokenizer.json of the tokenizers library"
            ) from exc
        self.pad = self._padding() if pad is None else pad
        self._length = length
        self._tokenizer.no_padding()
        # A text that spells "[PAD]" or "[SEP]" means these letters.
        self._tokenizer.encode_special_tokens = True
        if truncate:
            self._tokenizer.enable_truncation(length)
        else:
            self._tokenizer.no_truncation()

    def tokens(self, data: bytes) -> npt.NDArray[np.int64]:
        """Make a row of a text.

        Args:
            data: UTF-8.

        Returns:
            (L,) int64: ids with those that the tokeniser puts around them, then ``pad``.

        Raises:
            RequestError: If it is no UTF-8, holds no words, or is too long.
        """
        if len(data) > MAX_BYTES:
            _refuse(f"has {len(data)} bytes, at most {MAX_BYTES} are taken", "send a shorter text")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as exc:
            _refuse(f"is not UTF-8: {exc.reason} at byte {exc.start}", "encode the text as UTF-8")
        try:
            found = self._tokenizer.encode(text)
        except Exception as exc:  # noqa: BLE001  # the library raises no class of its own
            _refuse(f"cannot be tokenised: {exc}", "send words that the tokeniser knows")
        if all(found.special_tokens_mask):
            _refuse("is empty: it holds no words" if text.strip() else "is empty", "send a text")
        if len(found) > self._length:
            hint = "send a shorter text; `truncate = true` in [input] of the spec would cut it off"
            _refuse(f"has {len(found)} tokens, at most {self._length} are taken", hint)
        row = np.full(self._length, self.pad, dtype=np.int64)
        row[: len(found)] = found.ids
        return row

    def _padding(self) -> int:
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        for name in _PADS:
            found = self._tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        message = f"tokenizer.json: names no token for padding, looked for {', '.join(_PADS)}"
        raise SpecError(message, hint="give its id: `pad = 0` in [input]")


def _refuse(what: str, hint: str) -> NoReturn:
    message = f"input TEXT: {what}"
    raise RequestError(message, hint=hint)
