"""Texts as data sets are written: lines, folders of classes, CSV."""

from pathlib import Path

import pytest
from tokeniser import tokenizer_json

from cascade_builder.class_numbers import ClassNumbers
from cascade_builder.data import open_data
from cascade_builder.spec import Input
from cascade_builder.text_input import Text
from cascade_router.errors import RecordsError

CLASSES = ClassNumbers(3, lambda: ["low", "middle", "high"])


@pytest.fixture
def opened(tmp_path: Path):
    tokenizer = tmp_path.parent / "tokenizer.json"
    tokenizer.write_text(tokenizer_json())
    text = Text(tokenizer=tokenizer, length=6)
    form = Input(kind="text", name="TOKENS", dtype="INT64", shape=(6,), text=text)
    return lambda path, **options: open_data(path, form, CLASSES, **options)


def texts(data):
    return [data.row(i) for i in range(len(data))]


def test_lines_are_rows(tmp_path, opened):
    """Named by file and line; what is no UTF-8 is left to whoever reads the row."""
    (tmp_path / "a.txt").write_bytes(b"play\n\njazz\r\n\xff\n")

    data = opened(tmp_path / "a.txt")

    assert texts(data) == [b"play", b"jazz", b"\xff"]
    assert data.name(2) == "a.txt line 4"
    assert (data.kind, data.labels) == ("text", None)


def test_folders_are_classes(tmp_path, opened):
    """Every line of every file in them; a folder that is no class is named."""
    for name, content in {"0/a.txt": "one\ntwo\n", "HIGH/b.txt": "three\n", "1/c.md": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)

    data = opened(tmp_path)

    assert texts(data) == [b"one", b"two", b"three"]
    assert data.labels.tolist() == [0, 0, 2]
    assert opened(tmp_path, unlabelled=True).labels is None
    (tmp_path / "hihg").mkdir()
    (tmp_path / "hihg" / "x.txt").write_text("x")
    with pytest.raises(RecordsError, match="folder 'hihg': 'hihg' is no class"):
        opened(tmp_path)


def test_a_csv_holds_texts_and_labels(tmp_path, opened):
    """Columns in any order, a text of several lines in quotes, labels by name or number."""
    path = tmp_path / "labels.csv"
    path.write_text('Label,id,TEXT\nlow,7,"play, some\njazz"\n2,8,jazz\n', encoding="utf-8-sig")

    data = opened(tmp_path)

    assert texts(data) == [b"play, some\njazz", b"jazz"]
    assert data.labels.tolist() == [0, 2]
    assert data.digest == opened(path).digest
    path.write_text(path.read_text(encoding="utf-8-sig").replace("low", "middle"))
    assert data.digest != opened(path).digest


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("path,label\na,1\n", "got columns .*, expected 'text'"),
        ("text,label\njazz,\n", "line 2: has no label"),
        ("text,label\njazz,9\n", "line 2: got label 9, expected 0 to 2"),
        ("text,label\n", "holds no rows"),
        ("", "got columns"),
        (b"text\n\xff\n", "cannot be read"),
    ],
)
def test_a_bad_csv_is_refused(tmp_path, opened, content, match):
    """The line is named."""
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(RecordsError, match=match):
        opened(path)


def test_what_holds_no_texts_is_refused(tmp_path, opened):
    """An empty folder, rows in two places, a file of another kind."""
    with pytest.raises(RecordsError, match="holds no rows"):
        opened(tmp_path)
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(RecordsError, match="holds no texts known here"):
        opened(tmp_path / "a.md")
    (tmp_path / "b.txt").write_text("x")
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "c.txt").write_text("x")
    with pytest.raises(RecordsError, match="both directly and in folders"):
        opened(tmp_path)
