"""Input rows from files and arrays."""

import numpy as np
import pytest

from cascade_client.calls import Port
from cascade_client.rows import files_in, random_rows, read_file, row_names, rows_from, stack
from cascade_router.errors import RequestError

PICTURE = Port("IMAGE", "BYTES", (1,))
TEXT = Port("TEXT", "BYTES", (1,))
FRAME = Port("FRAME", "FP32", (3,))
PIXELS = Port("PIXELS", "UINT8", (2, 2, 3))
ANY = Port("X", "FP32", (-1,))


def test_a_picture_is_sent_as_it_lies_in_the_file(tmp_path):
    """The client decodes nothing."""
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8anything")

    (row,) = read_file(path, PICTURE)

    assert row.tolist() == [b"\xff\xd8anything"]


def test_a_folder_stands_for_its_files_by_name(tmp_path):
    """Pictures for an input of bytes, arrays for one of numbers; other files are passed over."""
    for name in ("b.PNG", "a.jpg", "notes.txt", "x.npy"):
        (tmp_path / name).write_bytes(b"x")

    assert [p.name for p in files_in([tmp_path], PICTURE)] == ["a.jpg", "b.PNG"]
    assert [p.name for p in files_in([tmp_path], FRAME)] == ["x.npy"]


@pytest.mark.parametrize(
    ("name", "content", "port", "match"),
    [
        ("gone.jpg", None, PICTURE, "gone.jpg: cannot be read: No such file"),
        ("empty.jpg", b"", PICTURE, "empty.jpg: the file is empty"),
        ("gone.npy", None, FRAME, "gone.npy: cannot be read"),
        ("bad.npy", b"not numpy", FRAME, "bad.npy: cannot be read"),
        ("empty.npy", b"", FRAME, "empty.npy: cannot be read"),
        ("a.jpg", b"x", FRAME, r"a.jpg: input FRAME takes numbers"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, port, match):
    """The message starts with the path."""
    if content is not None:
        (tmp_path / name).write_bytes(content)

    with pytest.raises(RequestError, match=match):
        read_file(tmp_path / name, port)


def test_an_array_of_objects_is_never_unpickled(tmp_path):
    """Nothing pickled is loaded."""
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(RequestError, match=r"o\.npy: cannot be read"):
        read_file(tmp_path / "o.npy", FRAME)


def test_an_array_file_holds_one_row_or_several(tmp_path):
    """A leading dimension makes rows; doubles become what the model takes."""
    np.save(tmp_path / "one.npy", np.arange(3.0))
    np.save(tmp_path / "two.npy", np.arange(6.0).reshape(2, 3))

    assert [r.dtype for r in read_file(tmp_path / "one.npy", FRAME)] == [np.float32]
    assert np.array(read_file(tmp_path / "two.npy", FRAME)).tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("given", "port", "match"),
    [
        ([np.zeros(4)], FRAME, r"rows\[0\]: got float64 \[4\], expected float32 \[3\].*FRAME"),
        ([np.zeros(3), np.zeros((3, 1))], FRAME, r"rows\[1\]: got float64 \[3, 1\]"),
        ([np.zeros((2, 2, 3))], PIXELS, r"rows\[0\]: got float64 .* expected uint8 \[2, 2, 3\]"),
        ([np.zeros(3, complex)], FRAME, "complex128"),
        ([b"abc"], FRAME, r"rows\[0\]: got 3 bytes, expected float32"),
        ([b""], PICTURE, r"rows\[0\]: got no bytes"),
        ([np.zeros(3)], PICTURE, "expected an encoded picture"),
        ([np.zeros((1, 1))], ANY, r"expected float32 \[any\]"),
    ],
)
def test_a_row_of_wrong_shape_or_type_is_named_with_what_fits(given, port, match):
    """Where, what came, what is expected."""
    with pytest.raises(RequestError, match=match):
        rows_from(given, port)


@pytest.mark.parametrize("single", [b"abc", "cat.jpg", bytearray(b"x")])
def test_one_row_given_for_a_list_is_a_wrong_argument(single):
    """Text is a sequence too; its letters are not rows."""
    with pytest.raises(ValueError, match="expected a list"):
        rows_from(single, PICTURE)


def test_files_and_bytes_mix(tmp_path):
    """Rows keep the order they were given in."""
    (tmp_path / "a.jpg").write_bytes(b"file")

    rows = rows_from([b"first", tmp_path / "a.jpg", str(tmp_path / "a.jpg")], PICTURE)

    assert [r.tolist() for r in rows] == [[b"first"], [b"file"], [b"file"]]


def test_random_rows_fit_and_repeat():
    """A seed fixes them; bytes cannot be drawn."""
    for port in (FRAME, PIXELS, ANY, Port("B", "BOOL", (2,))):
        first, again = random_rows(port, 4, seed=1), random_rows(port, 4, seed=1)
        np.testing.assert_array_equal(first, again)
        assert len(rows_from(first, port)) == 4
    with pytest.raises(RequestError, match="IMAGE takes files"):
        random_rows(PICTURE, 1)


def test_rows_of_one_request_have_one_shape():
    """A free length does not make ragged batches."""
    with pytest.raises(RequestError, match="differ in shape"):
        stack([np.zeros(1), np.zeros(2)])


def test_an_empty_folder_is_named(tmp_path):
    """And the suffixes looked for are said."""
    with pytest.raises(RequestError, match=r"no file here for input IMAGE, expected \.jpg"):
        files_in([tmp_path], PICTURE)


def test_a_text_file_has_a_row_a_line(tmp_path):
    """As it lies there, whatever its line ends and its mark; empty lines are no rows."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfplay jazz\r\n\n  \ncaf\xc3\xa9 \n\xff")

    rows = read_file(path, TEXT)

    assert [row.item() for row in rows] == [b"play jazz", b"caf\xc3\xa9 ", b"\xff"]
    assert row_names(path, rows, TEXT) == ["play jazz", "café", "\ufffd"]


def test_a_long_text_names_its_row_by_its_beginning(tmp_path):
    """Tables stay narrow; other rows are named by their file and place."""
    (row,) = rows_from(["word " * 30], TEXT)

    (name,) = row_names(tmp_path, [row], TEXT)

    assert len(name) == 40
    assert name.startswith("word word")
    frames = [np.zeros(3), np.zeros(3)]
    assert row_names(tmp_path / "x.npy", frames[:1], FRAME) == [str(tmp_path / "x.npy")]
    assert row_names(tmp_path / "x.npy", frames, FRAME)[1] == f"{tmp_path / 'x.npy'}[1]"


def test_for_a_text_cascade_a_string_is_a_text_and_a_path_a_file(tmp_path):
    """So nobody's question is looked up on the disk."""
    (tmp_path / "q.txt").write_text("one\ntwo\n")

    rows = rows_from(["q.txt", b"bytes", tmp_path / "q.txt"], TEXT)

    assert [row.item() for row in rows] == [b"q.txt", b"bytes", b"one", b"two"]
    with pytest.raises(RequestError, match=r"rows\[0\]: got no bytes, expected a text"):
        rows_from([b""], TEXT)
    with pytest.raises(RequestError, match=r"rows\[0\]: got an array .* expected a text"):
        rows_from([np.zeros(3)], TEXT)


def test_folders_hold_text_files_for_a_text_cascade(tmp_path):
    """Pictures beside them are passed over."""
    for name in ("b.TXT", "a.txt", "c.jpg"):
        (tmp_path / name).write_bytes(b"x")

    assert [p.name for p in files_in([tmp_path], TEXT)] == ["a.txt", "b.TXT"]
