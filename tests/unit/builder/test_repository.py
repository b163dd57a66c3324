import os
from pathlib import Path

import pytest

from cascade_builder.layout import Model
from cascade_builder.repository import changed, write
from cascade_router.errors import BuildError


def model(name: str = "toy", **files: str) -> Model:
    return Model(
        name=name,
        files={key.replace("__", "/").replace("_p", ".p"): v.encode() for key, v in files.items()},
    )


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): p.read_text() for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_folder_is_written_and_then_needs_nothing(tmp_path: Path) -> None:
    """What was written is what was asked for; nothing else is left behind."""
    root, wanted = tmp_path / "repository", model(config_pbtxt="a", **{"1__model_py": "b"})
    assert changed(root, wanted) == "new"
    write(root, [wanted])
    assert changed(root, wanted) is None
    assert tree(tmp_path) == {"repository/toy/1/model.py": "b", "repository/toy/config.pbtxt": "a"}


def test_each_kind_of_change_is_named(tmp_path: Path) -> None:
    """Changed, missing, and left over from another target."""
    write(tmp_path / "r", [model(config_pbtxt="a", **{"1__model_py": "b"})])
    root = tmp_path / "r"
    assert changed(root, model(config_pbtxt="A")) == "config.pbtxt changed"
    assert changed(root, model(config_pbtxt="a")) == "1/model.py is no longer needed"
    (root / "toy" / "1" / "model.py").unlink()
    more = model(config_pbtxt="a", **{"1__model_py": "b"})
    assert changed(root, more) == "1/model.py is missing"


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    """Another cascade's folder, another version, and what a stub compiled is no change."""
    root = tmp_path / "r"
    write(root, [model(config_pbtxt="a"), model("other", config_pbtxt="o")])
    for file in ("2/model.onnx", "configs/h100.pbtxt", "1/__pycache__/model.pyc"):
        path = root / "toy" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("theirs")
    assert changed(root, model(config_pbtxt="a")) is None
    write(root, [model(config_pbtxt="b")])
    assert tree(root) == {
        "other/config.pbtxt": "o",
        "toy/2/model.onnx": "theirs",
        "toy/config.pbtxt": "b",
        "toy/configs/h100.pbtxt": "theirs",
    }


def test_a_failure_leaves_every_folder_as_it_was(tmp_path: Path) -> None:
    """The second folder cannot be made, so the first is not touched either."""
    root = tmp_path / "r"
    write(root, [model(config_pbtxt="a")])
    broken = Model(name="second", files={"1/model.onnx": tmp_path / "missing.onnx"})
    with pytest.raises(BuildError, match="cannot be written"):
        write(root, [model(config_pbtxt="b"), broken])
    assert tree(tmp_path) == {"r/toy/config.pbtxt": "a"}


def test_a_large_file_is_compared_by_size_and_time_then_by_content(tmp_path: Path) -> None:
    """Same content at another time is the same; other content of the same size is not."""
    source = tmp_path / "model.onnx"
    source.write_bytes(b"12345678")
    wanted = Model(name="toy", files={"1/model.onnx": source})
    write(tmp_path / "r", [wanted])
    os.utime(source, ns=(1, 1))
    assert changed(tmp_path / "r", wanted) is None
    source.write_bytes(b"abcdefgh")
    assert changed(tmp_path / "r", wanted) == "1/model.onnx changed"


def test_named_folders_are_removed(tmp_path: Path) -> None:
    """Only those."""
    write(tmp_path / "r", [model("a", config_pbtxt="a"), model("b", config_pbtxt="b")])
    write(tmp_path / "r", [], remove=["a"])
    assert tree(tmp_path) == {"r/b/config.pbtxt": "b"}
