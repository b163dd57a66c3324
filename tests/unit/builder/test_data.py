import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cascade_builder.class_numbers import ClassNumbers
from cascade_builder.data import DataSet, open_data
from cascade_builder.spec import Input
from cascade_router.errors import RecordsError

FRAME = Input(kind="tensor", name="FRAME", dtype="FP32", shape=(4,))
PICTURE = Input(kind="image", name="PIXELS", dtype="UINT8", shape=(8, 8, 3))
CLASSES = ClassNumbers(3, lambda: ["low", "Middle C", "high"])


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (10, 10), (len(path.name), 0, 0)).save(file, "PNG")
    path.write_bytes(file.getvalue())
    return path


def opened(path: Path, form: Input = PICTURE, **options: Any) -> DataSet:
    return open_data(path, form, CLASSES, **options)


def labels(data: DataSet) -> list[int] | None:
    return None if data.labels is None else data.labels.tolist()


def test_a_folder_of_pictures_has_no_labels(tmp_path: Path) -> None:
    """Rows come in the order of their names; hidden files are not seen, others are spoken of."""
    for name in ("b.png", "a.PNG", ".hidden.png"):
        picture(tmp_path / name)
    (tmp_path / "c.heic").write_bytes(b"")
    data = opened(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["a.PNG", "b.png"]
    assert data.row(1) == (tmp_path / "b.png").read_bytes()
    assert labels(data) is None
    assert data.notes[0].startswith("1 files were left alone (1 .heic)")


def test_folders_are_classes_by_number_or_name(tmp_path: Path) -> None:
    """Case and underscores do not matter; an empty folder does not either."""
    for name in ("002/x.png", "LOW/y.png", "middle_c/z.png", "middle_c/a.png"):
        picture(tmp_path / name)
    (tmp_path / "empty").mkdir()
    data = opened(tmp_path)
    assert labels(data) == [2, 0, 1, 1]
    assert labels(opened(tmp_path, unlabelled=True)) is None


def test_a_folder_that_is_no_class_is_named(tmp_path: Path) -> None:
    """With what its author may have meant."""
    picture(tmp_path / "middel_c" / "x.png")
    with pytest.raises(RecordsError, match="folder 'middel_c': 'middel_c' is no class") as caught:
        opened(tmp_path)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("did you mean 'middle c'?")


def test_pictures_beside_folders_of_pictures_are_refused(tmp_path: Path) -> None:
    """Half of the rows would have no label."""
    picture(tmp_path / "0" / "x.png")
    picture(tmp_path / "y.png")
    with pytest.raises(RecordsError, match="both directly and in folders"):
        opened(tmp_path)


@pytest.mark.parametrize("header", ["path,label", "wnid, Label ,FILE", "file,label,path"])
def test_a_csv_names_files_and_labels(tmp_path: Path, header: str) -> None:
    """Files lie beside it or in ``images``; columns come in any order; others are left alone."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "images" / "b.png")
    lines = {
        "path,label": ["a.png,2", "b.png,middle c"],
        "wnid, Label ,FILE": ["n1,2,a.png", "n2,1,b.png"],
        "file,label,path": ["x,2,a.png", "x,1,b.png"],
    }[header]
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff" + "\r\n".join([header, *lines]), encoding="utf-8")
    data = opened(path)
    assert [data.name(i) for i in range(2)] == ["a.png", "images/b.png"]
    assert labels(data) == [2, 1]


def test_a_csv_without_labels_is_unlabelled(tmp_path: Path) -> None:
    """Paths may be relative to another folder."""
    picture(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "rows.csv").write_text("path\na.png\n")
    data = opened(tmp_path / "rows.csv", images=tmp_path / "elsewhere")
    assert (len(data), labels(data)) == (1, None)


def test_a_folder_with_labels_csv_is_read_by_it(tmp_path: Path) -> None:
    """So the folder of a downloaded data set can be given as it is."""
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "labels.csv").write_text("file,label\na.png,1\n")
    assert labels(opened(tmp_path)) == [1]


def test_missing_files_are_counted(tmp_path: Path) -> None:
    """The first is named with its line; they may be left out instead."""
    picture(tmp_path / "a.png")
    path = tmp_path / "rows.csv"
    path.write_text("path,label\nx.png,0\na.png,1\ny.png,2\n")
    with pytest.raises(RecordsError, match=r"rows\.csv line 2: .*'x\.png' is missing; 2 of 3"):
        opened(path)
    data = opened(path, skip_missing=True)
    assert labels(data) == [1]
    assert [name for name, _ in data.missing] == ["rows.csv line 2", "rows.csv line 4"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("picture,label\na.png,0\n", "expected 'path'"),
        ("path,label\na.png,3\n", "line 2: got label 3, expected 0 to 2"),
        ("path,label\na.png,-1\n", "line 2: got label -1"),
        ("path,label\na.png,treble\n", "line 2: 'treble' is no class"),
        ("path,label\na.png,0\na.png,\n", "line 3: has no label"),
        ("path,label\na.png\n", "line 2: has no label"),
        ("path,label\n,1\n", "line 2: names no file"),
        ("path,label\n", "holds no rows"),
        ("", "expected 'path'"),
        ("path,label\n\x00,1\n", "line 2: the file .* is missing"),
        (f"path,label\n{'x' * 300},1\n", "line 2: the file 'x+' is missing"),
        ('path,label\n"' + "x" * 200_000 + '",1\n', "rows.csv: cannot be read: field larger"),
    ],
)
def test_a_csv_that_is_wrong_is_refused_by_line(tmp_path: Path, text: str, says: str) -> None:
    """Before anything runs."""
    picture(tmp_path / "a.png")
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(RecordsError, match=says):
        opened(tmp_path / "rows.csv")


def test_an_ambiguous_name_is_refused(tmp_path: Path) -> None:
    """ImageNet has two cranes."""
    picture(tmp_path / "crane" / "a.png")
    with pytest.raises(RecordsError, match="'crane' is the name of classes 0, 2"):
        open_data(tmp_path, PICTURE, ClassNumbers(3, lambda: ["crane", "b", "crane"]))


def test_names_win_over_numbers() -> None:
    """Classes may be called by digits in another order; without such a name it is a number."""
    classes = ClassNumbers(3, lambda: ["2", "0", "x"])
    assert [classes.of(text, "here") for text in ("2", "0", "1")] == [0, 1, 1]


def test_names_are_not_asked_for_numbers_alone(tmp_path: Path) -> None:
    """Labels of an NPZ are numbers: nobody's factory of names runs."""

    def never() -> list[str]:
        raise AssertionError

    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 4)), y=np.array([0, 2]))
    data = open_data(tmp_path / "rows.npz", FRAME, ClassNumbers(3, never))
    assert labels(data) == [0, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_an_npz_are_read_one_by_one(tmp_path: Path, save: Any) -> None:
    """In any order, from a plain or compressed file, by the names of its arrays."""
    x = np.arange(12, dtype=np.float16).reshape(3, 4)
    save(tmp_path / "rows.npz", frames=x, notes=np.array(["low", "high", "1"]), other=np.zeros(7))
    data = opened(tmp_path / "rows.npz", FRAME, x="frames", y="notes")
    assert data.kind == "tensor"
    assert labels(data) == [0, 2, 1]
    assert [data.row(i).tolist() for i in (2, 0, 1)] == x[[2, 0, 1]].tolist()
    assert data.name(2) == "rows.npz frames[2]"


def test_an_npz_without_y_is_unlabelled(tmp_path: Path) -> None:
    """So is one whose labels are to be left alone."""
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 4)))
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 4)), y=np.array([7, 8]))
    assert labels(opened(tmp_path / "a.npz", FRAME)) is None
    assert labels(opened(tmp_path / "b.npz", FRAME, unlabelled=True)) is None


def test_an_npz_of_canonical_pictures_is_taken(tmp_path: Path) -> None:
    """Pixels need no decoding."""
    np.savez(tmp_path / "rows.npz", x=np.zeros((2, 8, 8, 3), np.uint8))
    assert opened(tmp_path / "rows.npz").kind == "tensor"


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ({"a": np.zeros((2, 4))}, {}, "there is no array 'x', got a"),
        ({"x": np.zeros((2, 5))}, {}, "'x' is float64 2x5, expected float32 Nx4"),
        ({"x": np.zeros(())}, {}, "expected float32 Nx4"),
        ({"x": np.array([["a"] * 4])}, {}, "'x' is <U1 1x4"),
        ({"x": np.zeros((2, 4))}, {"y": "z"}, "there is no array 'z'"),
        ({"x": np.zeros((2, 4)), "y": np.zeros(3, int)}, {}, r"'y' is int64 \[3\], expected"),
        ({"x": np.zeros((2, 4)), "y": np.zeros(2)}, {}, r"'y' is float64 \[2\]"),
        ({"x": np.zeros((2, 4)), "y": np.array([0, 3])}, {}, r"y\[1\]: got label 3"),
        ({"x": np.zeros((2, 4)), "y": np.array([-1, 3])}, {}, r"y\[0\] \(2 such labels\): got"),
        ({"x": np.zeros((0, 4))}, {}, "holds no rows"),
        ({"x": np.asfortranarray(np.ones((2, 4)))}, {}, "stored column by column"),
        ({"x": np.array([{}, {}], dtype=object)}, {}, "'x' holds Python objects"),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(
    tmp_path: Path, arrays: dict[str, Any], options: dict[str, str], says: str
) -> None:
    """Before anything runs, and without running a pickle."""
    np.savez(tmp_path / "rows.npz", **arrays)
    with pytest.raises(RecordsError, match=says):
        opened(tmp_path / "rows.npz", FRAME, **options)


def test_a_torn_npz_is_refused(tmp_path: Path) -> None:
    """Half a file is no file."""
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((2, 4)))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordsError, match=r"rows\.npz: cannot be read"):
        opened(path, FRAME)


def test_a_large_npz_does_not_fill_memory(tmp_path: Path) -> None:
    """Rows are read one by one: 16 MB of them pass through less than 2 MB."""
    form = Input(kind="tensor", name="FRAME", dtype="FP32", shape=(1024,))
    np.savez(tmp_path / "rows.npz", x=np.zeros((4096, 1024), np.float32))
    tracemalloc.start()
    data = open_data(tmp_path / "rows.npz", form, CLASSES)
    total = sum(float(data.row(i)[0]) for i in range(len(data)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (total, peak < 2**21) == (0.0, True)


@pytest.mark.parametrize(
    ("name", "says"), [("rows.parquet", ".parquet is no kind"), ("gone", "no such file")]
)
def test_other_data_sets_are_refused_with_what_is_known(
    tmp_path: Path, name: str, says: str
) -> None:
    """The next step is in the hint."""
    (tmp_path / "rows.parquet").write_bytes(b"")
    with pytest.raises(RecordsError, match=says) as caught:
        opened(tmp_path / name)
    assert "path,label" in str(caught.value.hint)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """It says what it looked for."""
    with pytest.raises(RecordsError, match=r"holds no rows \(rows are files ending in \.npy\)"):
        opened(tmp_path, FRAME)


def test_a_changed_file_or_label_changes_the_digest(tmp_path: Path) -> None:
    """An interrupted recording must not go on with other rows."""
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    path = tmp_path / "rows.csv"
    seen = set()
    for text in ("path,label\na.png,0\n", "path,label\na.png,1\n", "path\na.png\nb.png\n"):
        path.write_text(text)
        seen.add(opened(path).digest)
    assert opened(path).digest in seen
    picture(tmp_path / "b.png").write_bytes(b"longer than it was before, and no picture" * 9)
    seen.add(opened(path).digest)
    assert len(seen) == 4
