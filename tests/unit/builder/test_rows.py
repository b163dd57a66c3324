import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cascade_builder.rows import canonical, raw
from cascade_builder.spec import Input, Rows
from cascade_router.errors import RecordsError

FRAME = Input(kind="tensor", name="FRAME", dtype="FP32", shape=(4,))
PICTURE = Input(kind="image", name="PIXELS", dtype="UINT8", shape=(8, 8, 3))


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 10), colour).save(file, "PNG")
    return file.getvalue()


def test_pictures_become_canonical_pixels(tmp_path: Path) -> None:
    """A folder of pictures is read in the order of its names; other files are left alone."""
    (tmp_path / "b.png").write_bytes(png((0, 255, 0)))
    (tmp_path / "a.PNG").write_bytes(png((255, 0, 0)))
    (tmp_path / "notes.txt").write_text("no picture")
    pixels = canonical(raw(Rows(folder=tmp_path), "image"), PICTURE)
    assert (pixels.shape, pixels.dtype) == ((2, 8, 8, 3), np.uint8)
    assert pixels[:, 4, 4].tolist() == [[255, 0, 0], [0, 255, 0]]


def test_arrays_become_canonical_rows(tmp_path: Path) -> None:
    """A folder of arrays is read up to the limit and made the spec's dtype."""
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full(4, i, dtype=np.float64))
    rows = canonical(raw(Rows(folder=tmp_path), "tensor", limit=2), FRAME)
    assert rows.dtype == np.float32
    assert rows[:, 0].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("value", "form", "says"),
    [
        (np.zeros(5, np.float32), FRAME, r"rows\[1\]: got float32 \[5\], expected float32 \[4\]"),
        (np.array(["a"] * 4), FRAME, r"rows\[1\]: got <U1 \[4\]"),
        (b"no picture", PICTURE, r"rows\[1\]: input IMAGE"),
        ("path.png", PICTURE, r"rows\[1\]: got str, expected the bytes"),
    ],
)
def test_a_row_that_does_not_fit_is_named(value: object, form: Input, says: str) -> None:
    """The message gives the number of the row."""
    good = np.zeros(4, np.float32) if form is FRAME else png((1, 2, 3))
    with pytest.raises(RecordsError, match=says):
        canonical([good, value], form)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    """An array of objects would run code when loaded."""
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RecordsError, match=r"x\.npy is no array"):
        raw(Rows(folder=tmp_path), "tensor")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """Parity on no rows would prove nothing."""
    with pytest.raises(RecordsError, match="got none"):
        raw(Rows(folder=tmp_path), "image")
