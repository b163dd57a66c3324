import sys
from pathlib import Path

import pytest

from cascade_builder.factories import Factory
from cascade_router.errors import SpecError


def factory(folder: Path, text: str = "made_here:make") -> Factory:
    return Factory.parse(text, folder, "here")


def test_a_module_beside_the_spec_is_found_without_being_run(tmp_path: Path) -> None:
    """Finding the source runs none of it, and leaves nothing on the path."""
    (tmp_path / "made_here.py").write_text("raise RuntimeError('run')\n")
    before = list(sys.path)
    assert factory(tmp_path).source() == tmp_path / "made_here.py"
    assert sys.path == before


def test_what_a_factory_prints_does_not_reach_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stdout is for results."""
    (tmp_path / "made_here.py").write_text("def make(n):\n    print('loaded')\n    return n + 1\n")
    assert factory(tmp_path).run({"n": 1}) == 2
    assert capsys.readouterr() == ("", "loaded\n")


def test_two_folders_may_have_modules_of_one_name(tmp_path: Path) -> None:
    """Modules beside a spec are not kept for the next one."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "made_here.py").write_text(f"def make():\n    return {name!r}\n")
    assert [factory(tmp_path / name).run({}) for name in ("a", "b")] == ["a", "b"]


@pytest.mark.parametrize("text", ["no_such_module:make", "no_such.module:make"])
def test_a_missing_module_is_named(text: str, tmp_path: Path) -> None:
    """The message names it and the way out."""
    with pytest.raises(SpecError, match="there is no module") as caught:
        factory(tmp_path, text).source()
    assert caught.value.hint is not None


def test_a_missing_function_is_named(tmp_path: Path) -> None:
    """The message names it."""
    (tmp_path / "made_here.py").write_text("other = 1\n")
    with pytest.raises(SpecError, match="no function 'make'"):
        factory(tmp_path).run({})
