"""Text cascades in the builder: the spec, the rows, the repository, and what makes them stale."""

from pathlib import Path

import numpy as np
import pytest
from tokeniser import CLS, SEP, tokenizer_json

from cascade_builder import rows
from cascade_builder.first_policy import choose, first_policy
from cascade_builder.layout import layout, model_names
from cascade_builder.spec import Rows, Spec
from cascade_builder.triton_config import parse
from cascade_router.errors import RecordsError, SpecError

INPUT = """
[input]
kind = "text"
length = 6
"""


@pytest.fixture
def text_spec(spec_text):
    """Text of the toy's spec with texts for input."""
    before, after = spec_text.split("[input]")
    return before + INPUT + "\n[rows]" + after.split("[rows]")[1]


@pytest.fixture
def spec(tmp_path, text_spec):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    return Spec.parse(text_spec, tmp_path)


def test_all_experts_share_the_ids(spec):
    """One canonical tensor: TOKENS, int64, as long as the spec says."""
    form = spec.input

    assert (form.name, form.dtype, form.shape, form.raw) == ("TOKENS", "INT64", (6,), "TEXT")
    made = rows.canonical(["play jazz", b"Jazz"], form)
    assert made.tolist() == [[CLS, 4, 6, SEP, 0, 0], [CLS, 6, SEP, 0, 0, 0]]
    assert made.dtype == np.int64


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (b"\xff", r"rows\[0\]: input TEXT: is not UTF-8"),
        ("", r"rows\[0\]: input TEXT: is empty"),
        ("\ud800", r"rows\[0\]: input TEXT: is not UTF-8"),
        ("play " * 9, r"rows\[0\]: input TEXT: has 11 tokens, at most 6"),
        (7, r"rows\[0\]: got int, expected text"),
    ],
)
def test_a_row_that_is_no_text_is_named(spec, value, match):
    """In the words that a client gets."""
    with pytest.raises(RecordsError, match=match):
        rows.canonical([value], spec.input)


def test_rows_of_a_folder_are_lines(tmp_path, spec):
    """In the order of the files, up to the limit."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("some\n")
    (folder / "a.txt").write_text("play\n\njazz\n")

    assert rows.raw(Rows(folder=folder), "text") == [b"play", b"jazz", b"some"]
    assert rows.raw(Rows(folder=folder), "text", limit=1) == [b"play"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('tokenizer = "gone.json"', "there is no file"),
        ('tokenizer = "no_such_package:tokenizer.json"', "no 'tokenizer.json' in a package"),
        ('tokenizer = "click:tokenizer.json"', "no 'tokenizer.json' in a package 'click'"),
        ("length = 1", "got 1, expected 2 to 8192"),
        ('truncate = "yes"', "expected true or false"),
        ("pad = -1", "got -1, expected 0"),
        ("size = 3", "size is not a key"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, text_spec, line, match):
    """Before anything is built."""
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    text = text_spec.replace("length = 6\n", "" if line.startswith("length") else "length = 6\n")

    with pytest.raises(SpecError, match=match):
        Spec.parse(text.replace('kind = "text"', f'kind = "text"\n{line}'), tmp_path)


def test_a_tokeniser_may_lie_in_a_package(tmp_path, text_spec, monkeypatch):
    """It is found without importing the package, which may import the world."""
    package = tmp_path / "carries_words"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "words.json").write_text(tokenizer_json())
    monkeypatch.syspath_prepend(tmp_path)
    line = 'tokenizer = "carries_words:model/words.json"'

    spec = Spec.parse(text_spec.replace('kind = "text"', f'kind = "text"\n{line}'), tmp_path)

    assert rows.row("jazz", spec.input, "row").tolist() == [CLS, 6, SEP, 0, 0, 0]


def test_a_tokeniser_that_is_none_is_named(tmp_path, text_spec):
    """With its path."""
    (tmp_path / "tokenizer.json").write_text("{}")
    spec = Spec.parse(text_spec, tmp_path)

    with pytest.raises(SpecError, match=r"tokenizer\.json: cannot be read"):
        rows.row("jazz", spec.input, "row")


def test_the_repository_carries_the_tokeniser(spec):
    """The preprocessing model takes TEXT, gives TOKENS and is told how."""
    models = {one.name: one for one in layout(spec, "onnxruntime", [], core={}, router_files={})}

    assert set(models) == set(model_names(spec)) - {"toy_small", "toy_large"}
    files = models["toy_preprocess"].files
    path = files["1/tokenizer.json"]
    assert isinstance(path, Path)
    assert path.read_text() == tokenizer_json()
    assert b"text_model" in files["1/model.py"]
    config = parse(files["config.pbtxt"].decode())
    assert [port.name for port in (*config.input, *config.output)] == ["TEXT", "TOKENS"]
    said = {key: value.string_value for key, value in config.parameters.items()}
    assert said == {"length": "6", "pad": "0", "truncate": "false"}
    ensemble = parse(models["toy"].files["config.pbtxt"].decode())
    assert [port.name for port in ensemble.input] == ["TEXT"]


def test_another_tokeniser_is_another_input(tmp_path, spec):
    """What was recorded or calibrated with the old one holds no longer."""
    before = spec.input.described
    (tmp_path / "tokenizer.json").write_text(tokenizer_json(padding=11))

    assert spec.input.described != before
    assert rows.row("jazz", spec.input, "row").tolist() == [CLS, 6, SEP, 11, 11, 11]
    new = first_policy(spec, ["sha256:0", "sha256:1"])
    calibrated = new.to_json().replace("cascade-builder build", "cascade-builder calibrate")
    assert choose(calibrated, new).action == "kept"
    choice = choose(calibrated, new, same_input=False)
    assert (choice.action, choice.old) == ("replaced", calibrated)
    assert choice.reason == "the old one was made for another input"
