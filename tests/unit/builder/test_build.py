import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from cascade_builder.build import build
from cascade_builder.build_report import BuildReport
from cascade_builder.cli import main
from cascade_builder.spec import Spec
from cascade_router.errors import BuildError, SpecError
from cascade_router.served import ServedPolicy


@dataclass
class Toy:
    """A folder with the toy's spec, experts, artefacts and repository."""

    folder: Path

    @property
    def router(self) -> Path:
        return self.folder / "repository" / "toy_router" / "1"

    def build(self, **options: bool) -> BuildReport:
        spec = Spec.read(self.folder / "cascade.toml")
        return build(
            spec,
            self.folder / "repository",
            artifacts_folder=self.folder / "build",
            **options,
        )

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    def files(self) -> dict[str, bytes]:
        root = self.folder / "repository"
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, write_toy: Callable[[Path], Path]
) -> tuple[Toy, BuildReport]:
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder)
    toy = Toy(folder)
    return toy, toy.build()


@pytest.fixture
def toy(first: tuple[Toy, BuildReport], tmp_path: Path) -> Toy:
    """A copy of the built toy."""
    shutil.copytree(first[0].folder, tmp_path / "toy")
    return Toy(tmp_path / "toy")


def actions(report: BuildReport) -> dict[str, str]:
    both = [*report.experts, *report.models]
    return {one.name: one.action for one in both if one.action != "kept"}


def test_the_first_build_makes_everything(first: tuple[Toy, BuildReport]) -> None:
    """Experts, folders, and a policy that the router takes."""
    toy, report = first
    assert actions(report) == {
        "small": "built",
        "large": "built",
        **dict.fromkeys(["toy_small", "toy_large", "toy_router", "toy_control", "toy"], "written"),
    }
    policy = ServedPolicy(toy.router).policy
    assert [tier.digest for tier in policy.tiers] == [one.digest for one in report.experts]
    assert [tier.model for tier in policy.tiers] == ["toy_small", "toy_large"]
    assert "toy_small/1/cascade_router/onnx_expert.py" in toy.files()


def test_nothing_to_do_means_nothing_done(toy: Toy) -> None:
    """No file changes, and none of the experts' code is run."""
    toy.build()  # this folder is a copy, whose files are looked at once
    before = toy.files()
    (toy.folder / "toy_experts.py").touch()
    code = (
        "import sys; from cascade_builder.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, "build", "cascade.toml", "--repository", "repository"],
        cwd=toy.folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "nothing to do" in out
    assert out.splitlines()[-1] == "[]"
    assert toy.files() == before


def test_a_change_of_one_expert_rebuilds_that_one(toy: Toy) -> None:
    """And the router's folder, whose policy and manifest name its digest."""
    toy.edit("cascade.toml", "width = 4 ", "width = 4, bias = 1.0 ")
    report = toy.build()
    assert actions(report) == {"small": "built", "toy_small": "written", "toy_router": "written"}
    assert report.experts[0].reason == "arguments changed"
    assert report.policy == "replaced"
    assert (toy.router / "policy.json.old").is_file()
    assert ServedPolicy(toy.router).policy.tiers[0].digest == report.experts[0].digest


def test_serving_options_rebuild_no_expert(toy: Toy) -> None:
    """Another batcher delay is another config, not another model."""
    toy.edit("cascade.toml", "threads = 2", "threads = 2\nqueue_delay_us = 500")
    assert actions(toy.build()) == {"toy_large": "written", "toy_router": "written"}
    config = (toy.folder / "repository/toy_large/config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 500" in config


def test_an_expert_built_before_is_found_again(toy: Toy) -> None:
    """Going back to what was built once costs no export, and gives the same bytes."""
    before = toy.files()
    toy.edit("cascade.toml", "width = 4 ", "width = 4, bias = 1.0 ")
    toy.build()
    toy.edit("cascade.toml", "width = 4, bias = 1.0 ", "width = 4 ")
    assert [one.action for one in toy.build().experts] == ["kept", "kept"]
    after = toy.files()
    after.pop("toy_router/1/policy.json.old")
    assert after == before


@pytest.mark.parametrize("damage", [b"", b"broken"])
def test_a_damaged_artefact_is_built_again(damage: bytes, toy: Toy) -> None:
    """A truncated file must not be served."""
    (artefact,) = (toy.folder / "build" / "toy" / "experts").glob("small-*/model.onnx")
    good = artefact.read_bytes()
    artefact.write_bytes(damage)
    report = toy.build()
    assert (report.experts[0].action, report.experts[0].reason) == ("built", "its file is damaged")
    assert artefact.read_bytes() == good


def test_a_dry_run_says_what_a_build_does_and_writes_nothing(toy: Toy) -> None:
    """Same experts, same folders, same policy."""
    toy.edit("cascade.toml", "width = 4 ", "width = 4, bias = 1.0 ")
    before = toy.files()
    dry = toy.build(dry_run=True)
    assert toy.files() == before
    wet = toy.build()
    assert actions(dry) == actions(wet)
    assert dry.policy == wet.policy
    assert dry.experts[0].digest is None


def test_a_failed_build_leaves_the_repository_alone(toy: Toy) -> None:
    """An expert that cannot be made is never laid out."""
    before = toy.files()
    toy.edit("cascade.toml", "width = 4 ", 'width = "wide" ')
    with pytest.raises(BuildError, match="expert 'small'"):
        toy.build()
    assert toy.files() == before


def test_tiers_in_the_wrong_order_are_refused(toy: Toy) -> None:
    """Before anything is laid out."""
    before = toy.files()
    toy.edit("cascade.toml", "width = 4 ", "width = 8192 ")
    toy.edit("cascade.toml", "width = 8192 }\nthreads", "width = 4 }\nthreads")
    with pytest.raises(SpecError, match="tiers must be ordered cheap to costly"):
        toy.build()
    assert toy.files() == before


def test_the_folder_of_an_expert_that_left_is_removed(toy: Toy) -> None:
    """Triton would go on loading it. A folder that we did not write stays."""
    (toy.folder / "repository" / "toy_mine").mkdir()
    toy.edit("cascade.toml", 'name = "small"', 'name = "tiny"')
    assert actions(toy.build())["toy_small"] == "removed"
    names = sorted(path.name for path in (toy.folder / "repository").iterdir())
    assert names == ["toy", "toy_control", "toy_large", "toy_mine", "toy_router", "toy_tiny"]


def test_another_target_leaves_no_python_behind(toy: Toy) -> None:
    """Triton's own backend runs the same ONNX file."""
    toy.edit("cascade.toml", "max_batch = 8", 'max_batch = 8\ntarget = "onnxruntime"')
    assert [one.action for one in toy.build().experts] == ["kept", "kept"]
    files = [name for name in toy.files() if name.startswith("toy_small/")]
    assert sorted(files) == ["toy_small/1/model.onnx", "toy_small/config.pbtxt"]


def test_labels_lie_beside_the_router(toy: Toy) -> None:
    """One a line; a wrong number of them is refused."""
    toy.edit("cascade.toml", "max_batch", 'labels = "toy_experts:names"\nmax_batch')
    toy.build()
    assert (toy.router / "labels.txt").read_text() == "low\nmiddle\nhigh\n"
    toy.edit("toy_experts.py", ', "high"', "")
    with pytest.raises(SpecError, match="got 2 names, expected 3"):
        toy.build()


def test_what_is_built_names_no_folder_of_this_machine(first: tuple[Toy, BuildReport]) -> None:
    """Repositories are copied elsewhere."""
    toy, _ = first
    named = [name for name, data in toy.files().items() if str(toy.folder).encode() in data]
    assert named == []


def test_the_command_reports_as_json_on_stdout(toy: Toy) -> None:
    """And nothing else."""
    arguments = ["build", "cascade.toml", "--repository", "repository", "--json"]
    code = "from cascade_builder.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=toy.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    report = json.loads(result.stdout)
    assert (report["nothing_done"], report["policy"]) == (True, "kept")


def test_an_error_is_two_lines_on_stderr_and_exit_code_1() -> None:
    """What is wrong, and what to do."""
    result = CliRunner().invoke(main, ["build", "none.toml"])
    assert result.exit_code == 1
    assert result.stdout == ""
    first_line, second_line = result.stderr.splitlines()
    assert first_line.startswith("Error: none.toml: the spec cannot be read")
    assert second_line.startswith("help: ")
