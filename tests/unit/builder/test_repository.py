import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from cascade_builder.layout import Model
from cascade_builder.repository import Change, apply, finish, unfinished
from cascade_builder.repository_files import changed
from cascade_router.errors import BuildError


def model(name: str = "toy", **files: str) -> Model:
    return Model(
        name=name,
        files={key.replace("__", "/").replace("_p", ".p"): v.encode() for key, v in files.items()},
    )


def write(root: Path, models: list[Model], remove: list[str] | None = None) -> None:
    apply(root, Change(owner="toy", write=models, remove=remove or []))


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
    write(tmp_path / "r", [model(config_pbtxt="a", **{"1__model_py": "b", "1__model_plan": "c"})])
    root = tmp_path / "r"
    assert changed(root, model(config_pbtxt="A")) == "config.pbtxt changed"
    both = model(config_pbtxt="a", **{"1__model_py": "b"})
    assert changed(root, both) == "1/model.plan is no longer needed"
    (root / "toy" / "1" / "model.py").unlink()
    assert changed(root, both) == "1/model.py is missing"


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


def test_a_failure_while_staging_leaves_every_folder_as_it_was(tmp_path: Path) -> None:
    """The second folder cannot be made, so the first is not touched either."""
    root = tmp_path / "r"
    write(root, [model(config_pbtxt="a")])
    broken = Model(name="second", files={"1/model.onnx": tmp_path / "missing.onnx"})
    with pytest.raises(BuildError, match="cannot be written"):
        write(root, [model(config_pbtxt="b"), broken])
    assert tree(tmp_path) == {"r/toy/config.pbtxt": "a"}


def test_a_failure_while_renaming_puts_everything_back(tmp_path: Path) -> None:
    """A file stands where the last folder should go: the two before it return to what they were."""
    root = tmp_path / "r"
    router = model("toy_router", **{"1__manifest_pbtxt": "old"})
    write(root, [model(config_pbtxt="a"), router, model("gone", config_pbtxt="g")])
    (root / "second").write_text("a file")
    change = Change(
        owner="toy",
        write=[
            model(config_pbtxt="b"),
            model("toy_router", **{"1__manifest_pbtxt": "new"}),
            model("second", config_pbtxt="s"),
        ],
        remove=["gone"],
        guard=("toy_router/1/manifest.pbtxt", b"unfinished"),
    )
    with pytest.raises(BuildError, match="cannot be written") as caught:
        apply(root, change)
    assert caught.value.hint == "check free space and rights; the repository is as it was"
    assert tree(tmp_path) == {
        "r/gone/config.pbtxt": "g",
        "r/second": "a file",
        "r/toy/config.pbtxt": "a",
        "r/toy_router/1/manifest.pbtxt": "old",
    }


def killed_before(step: int, root: Path, change: Change) -> bool:
    """Apply a change in a process that dies before its step of that number; False: it had fewer."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = step

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        """Count what the interpreter does to the file system."""
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_WRONLY
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(watch)
        apply(root, change)
        code = 0
    finally:
        os._exit(code)


NEW = {"config.pbtxt": b"new", "1/manifest.json": b"new"}
CHANGE = Change(
    owner="toy",
    write=[Model(name=name, files=NEW) for name in ("toy_small", "toy_added", "toy_router")],
    remove=["toy_gone"],
    guard=("toy_router/1/manifest.json", b"unfinished"),
)
BEFORE = {
    f"{name}/{file}": "old"
    for name in ("toy_gone", "toy_router", "toy_small")
    for file in ("1/manifest.json", "config.pbtxt")
}
AFTER = {
    f"{name}/{file}": "new"
    for name in ("toy_added", "toy_router", "toy_small")
    for file in ("1/manifest.json", "config.pbtxt")
}


def test_a_killed_build_is_completed_or_forgotten_wherever_it_died(tmp_path: Path) -> None:
    """SIGKILL before each change of the file system in turn.

    A reader in between finds every folder whole, and where folders of both builds are mixed, a
    router that says so or none. The next build finds all as it was or completes it, and leaves
    nothing behind.
    """
    seen: list[dict[str, str]] = []
    for steps in range(200):
        home = tmp_path / str(steps)
        root = home / "r"
        for name, text in BEFORE.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        if not killed_before(steps, root, CHANGE):
            break
        between = {k: v for k, v in tree(root).items() if not Path(k).name.startswith(".")}
        for folder in ("toy_gone", "toy_small", "toy_added"):
            texts = [v for k, v in between.items() if k.startswith(f"{folder}/")]
            assert texts in ([], ["old", "old"], ["new", "new"])
        if between not in (BEFORE, AFTER):
            assert between.get("toy_router/1/manifest.json") in (None, "unfinished", "new")
            if between.get("toy_router/1/manifest.json") == "new":
                assert between.items() >= AFTER.items()
        completes = unfinished(root, "toy")
        assert finish(root, "toy") == completes
        assert not unfinished(root, "toy")
        assert tree(root) == (AFTER if completes or between == AFTER else BEFORE)
        assert [one.name for one in home.iterdir()] == ["r"]
        seen.append(between)
    else:
        pytest.fail("the change never came to its end")
    assert tree(root) == AFTER
    assert BEFORE in seen
    assert AFTER in seen
    assert any(one not in (BEFORE, AFTER) for one in seen)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"staging": "/", "write": [], "remove": [], "guard": null, "root": "/"}',
        '{"staging": "STAGING", "write": ["../up"], "remove": [], "guard": null, "root": "/"}',
        '{"staging": "STAGING", "write": [3], "remove": [], "guard": null, "root": "/"}',
    ],
)
def test_a_journal_that_is_not_ours_is_not_followed(text: str, tmp_path: Path) -> None:
    """It may name no folder but a staging one beside the repository."""
    root, staging = tmp_path / "r", tmp_path / ".r.building-x"
    write(root, [model(config_pbtxt="a")])
    (staging / "up").mkdir(parents=True)
    (root / ".toy.journal").write_text(text.replace("STAGING", str(staging)))
    assert finish(root, "toy") is False
    assert tree(tmp_path) == {"r/toy/config.pbtxt": "a"}


def test_what_another_cascade_has_to_complete_is_left_to_it(tmp_path: Path) -> None:
    """Its journal and the folders that wait stay."""
    root, staging = tmp_path / "r", tmp_path / ".r.building-x"
    root.mkdir()
    (staging / "other_a").mkdir(parents=True)
    (root / ".other.journal").write_text("{}")
    finish(root, "toy")
    assert (staging / "other_a").is_dir()
    assert unfinished(root, "other")


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
