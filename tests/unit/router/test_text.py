"""Texts to token ids: the row, and every text that is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokeniser import CLS, PAD, SEP, UNK, tokenizer_json
from tokenizers import Tokenizer, models

from cascade_router.errors import RequestError, SpecError
from cascade_router.text import MAX_BYTES, Tokeniser


def opened(length=6, pad=None, truncate=False, **options):
    return Tokeniser(tokenizer_json(**options), length=length, pad=pad, truncate=truncate)


def test_a_row_is_ids_between_marks_then_padding():
    """As the tokeniser's own post-processor puts them, filled up to the length."""
    row = opened(length=8).tokens(b"Play some JAZZ")

    assert row.tolist() == [CLS, 4, 5, 6, SEP, PAD, PAD, PAD]
    assert row.dtype == np.int64


def test_a_text_of_exactly_the_length_fits():
    """One more token does not, unless longer texts are to be cut off; the last mark stays."""
    text = b"play some jazz a"
    assert opened(length=6).tokens(text).tolist() == [CLS, 4, 5, 6, 7, SEP]
    with pytest.raises(RequestError, match="input TEXT: has 6 tokens, at most 5 are taken"):
        opened(length=5).tokens(text)
    assert opened(length=5, truncate=True).tokens(text).tolist() == [CLS, 4, 5, 6, SEP]


def test_a_word_that_the_tokeniser_cannot_take_is_the_callers_error():
    """One without an unknown token raises for it."""
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "play": 1}))
    tokeniser = Tokeniser(words.to_str(), length=4, pad=None, truncate=False)

    assert tokeniser.tokens(b"play").tolist() == [1, 0, 0, 0]
    with pytest.raises(RequestError, match="input TEXT: cannot be tokenised"):
        tokeniser.tokens(b"jazz")


@pytest.mark.parametrize("text", [b"[PAD]", b"[CLS] play [SEP]", b"play [PAD] some"])
def test_marks_that_a_text_spells_are_letters(text):
    """Otherwise a caller could mask words of his own text, or end it where he likes."""
    row = opened(length=16).tokens(text)

    words = row[row != PAD][1:-1]
    assert not {PAD, CLS, SEP} & set(words.tolist())


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"", r"is empty\n"),
        (b" \n\t ", r"is empty\n"),
        ("\u200b".encode(), "holds no words"),
        (b"\x00\x01", "holds no words"),
        (b"play \xff jazz", "is not UTF-8: invalid start byte at byte 5"),
        ("play".encode("utf-16"), "is not UTF-8"),
        (b"\xed\xa0\x80", "is not UTF-8"),
        (b"play " * 60_000, f"has 300000 bytes, at most {MAX_BYTES} are taken"),
        (b"x" * MAX_BYTES + b"x", "bytes, at most"),
    ],
)
def test_what_is_no_text_is_refused(text, match):
    """With a sentence that says what was wrong with it."""
    with pytest.raises(RequestError, match="input TEXT: ") as caught:
        opened().tokens(text)
    assert caught.value.hint is not None
    with pytest.raises(RequestError, match=match):
        opened().tokens(text)


@given(st.text(max_size=80))
def test_any_text_is_a_row_or_a_request_error(text):
    """Padding stands at the end only, so that ``ids != pad`` is the mask."""
    data = text.encode("utf-8", "surrogatepass")
    try:
        row = opened(length=32).tokens(data)
    except RequestError:
        return

    n = int((row != PAD).sum())
    assert 3 <= n <= 32
    assert (row[:n] != PAD).all()
    assert (row[n:] == PAD).all()
    assert (row[0], row[n - 1]) == (CLS, SEP)


def test_words_that_are_not_known_are_words():
    """A text of unknown words is answered, not refused."""
    assert opened().tokens("ζζζ".encode()).tolist() == [CLS, UNK, SEP, PAD, PAD, PAD]


def test_padding_is_what_the_spec_or_the_file_or_its_names_say():
    """In this order; where none says it, the spec must."""
    assert opened().pad == PAD
    named = Tokeniser(tokenizer_json(pad="<pad>"), length=4, pad=None, truncate=False)
    assert named.pad == 0
    assert Tokeniser(tokenizer_json(padding=11), length=4, pad=None, truncate=False).pad == 11
    assert opened(pad=9).tokens(b"jazz").tolist() == [CLS, 6, SEP, 9, 9, 9]
    with pytest.raises(SpecError, match="names no token for padding") as caught:
        Tokeniser(tokenizer_json(pad="[FILL]"), length=4, pad=None, truncate=False)
    assert "pad = 0" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', tokenizer_json()[:300]])
def test_a_broken_tokenizer_json_is_refused(content):
    """Whoever wrote the spec is told."""
    with pytest.raises(SpecError, match="cannot be read"):
        Tokeniser(content, length=4, pad=None, truncate=False)


def test_settings_in_the_file_do_not_change_the_row():
    """A file that pads to 16 and cuts at 3 gives the rows that the spec asks for."""
    values = json.loads(tokenizer_json(padding=0))
    values["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    values["padding"]["strategy"] = {"Fixed": 16}
    tokeniser = Tokeniser(json.dumps(values), length=6, pad=None, truncate=False)

    assert tokeniser.tokens(b"play some jazz").tolist() == [CLS, 4, 5, 6, SEP, PAD]
