"""``cascade-client sweep`` on a served cascade, loaded by a perf_analyzer that only pretends."""

import csv
import json
import sys
from dataclasses import replace

import fake_perf_analyzer
import numpy as np
import pytest
from click.testing import CliRunner
from fake_cascade import FakeCascade, row
from fake_wire import serve_grpc

from cascade_client.calls import Counts, Statistics
from cascade_client.cli import main
from cascade_client.levels import Level
from cascade_client.measured import Measured, Target
from cascade_client.sweep import Plan
from cascade_client.sweep_columns import COLUMNS
from cascade_client.sweep_start import sweep
from cascade_client.sweep_store import Store
from cascade_router.errors import ServerError


class Busy(FakeCascade):
    """A cascade whose counters go up by the same at every look; a quarter of the rows escalate."""

    def __init__(self):
        super().__init__()
        self.looks = {}

    def send(self, call):
        if not isinstance(call, Statistics):
            return super().send(call)
        n = self.looks[call.model] = self.looks.get(call.model, 0) + 1
        rows = {"pitch_full": 25}.get(call.model, 100)
        return [Counts("1", rows * n, 10 * n, 20 * n, 40.0 * n, 50.0 * n)]


@pytest.fixture
def perf(tmp_path, monkeypatch):
    """The pretending perf_analyzer, first on PATH; its folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    fake_perf_analyzer.install(folder)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


@pytest.fixture
def cascade():
    return Busy()


@pytest.fixture
def url(cascade):
    with serve_grpc(cascade) as url:
        yield url


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([row(2, 0.9), row(1, 0.1)]))
    return path


@pytest.fixture
def run(url, perf, rows_file, tmp_path):
    """Run the command on the rows, into one folder."""

    def invoke(*args, url=url, plots=False):
        words = ["--url", url, "--cascade", "pitch", "sweep", rows_file, "--out", tmp_path / "out"]
        words += [*([] if plots else ["--no-plots"]), *args]
        return CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)

    return invoke


def lines_of(folder):
    with (folder / "out" / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_candidate_is_measured_at_every_level(run, perf, tmp_path):
    """A line each, by gRPC, the operating point as a request parameter."""
    result = run("--concurrency", "1:4:x4", "--rate", "100", "--baselines", "--json")

    assert result.exit_code == 0
    values = json.loads(result.stdout)
    names = ["fast", "sure", "largest alone (full)", "smallest alone (tiny)"]
    loads = [("concurrency", 1.0), ("concurrency", 4.0), ("rate", 100.0)]
    expected = [(name, *load) for name in names for load in loads]
    assert [(one["candidate"], one["load"], one["level"]) for one in values["levels"]] == expected
    calls = fake_perf_analyzer.calls(perf)
    assert [call["--request-parameter"] for call in calls[:4]] == [
        ["cascade_point:fast:string"],
        ["cascade_point:sure:string"],
        ["cascade_min_tier:1:int", "cascade_max_tier:1:int"],
        ["cascade_min_tier:0:int", "cascade_max_tier:0:int"],
    ]
    lines = lines_of(tmp_path)
    assert [(one["candidate"], one["load"], float(one["level"])) for one in lines] == expected
    assert list(lines[0])[: len(COLUMNS)] == list(COLUMNS)


def test_queues_are_worked_off_before_a_level(run, cascade):
    """A row has gone through every tier, so nothing of the level before is left."""
    run("--concurrency", "1,2", "--point", "fast")

    tiers = [call.parameters["cascade_max_tier"] for call in cascade.inferences]
    assert tiers == [0, 1, 0, 1]


def test_a_line_says_what_the_cascade_and_its_tiers_did(run, tmp_path):
    """Client's figures from perf_analyzer, tiers' from the server's counters."""
    run("--concurrency", 4, "--point", "fast")
    (line,) = lines_of(tmp_path)

    assert (line["state"], line["note"]) == ("ok", "")
    figures = ("rows_per_s", "p50_ms", "p99_ms", "rows_spread", "requests")
    assert [float(line[key]) for key in figures] == [200, 20, 60, 0.5, 1000]
    assert [float(line[f"{key}_full"]) for key in ("reached", "mean_batch")] == [0.25, 2.5]
    assert [float(line[f"{key}_full"]) for key in ("queue_ms", "compute_ms")] == [2, 2]
    assert float(line["reached_tiny"]) == 1


def test_people_get_a_table_and_pictures(run, tmp_path):
    """On stdout the table, on stderr where the files are."""
    result = run("--concurrency", "1,4", "--rate", 50, plots=True)

    lines = [line.split() for line in result.stdout.splitlines() if line.startswith(" fast")]
    assert [line[1:6] for line in lines] == [
        ["1", "at", "once", "5", "50.0"],
        ["4", "at", "once", "5", "200.0"],
        ["50/s", "5", "50.0", "5.6", "11.1"],
    ]
    assert "written: " in result.stderr
    for name in ("latency", "fast", "sure"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_levels_that_are_known_are_not_measured_again(run, perf):
    """Only what is new, until --again is said."""
    first = run("--concurrency", "1,2", "--point", "fast", "--json")
    second = run("--concurrency", "1,2,4", "--point", "fast", "--json")
    assert len(fake_perf_analyzer.calls(perf)) == 3
    assert json.loads(second.stdout)["levels"][:2] == json.loads(first.stdout)["levels"]

    run("--concurrency", "1", "--point", "fast", "--again")
    assert len(fake_perf_analyzer.calls(perf)) == 4


def test_levels_of_another_server_are_measured(run, perf, cascade, rows_file, tmp_path):
    """Another configuration or other rows; what was measured before stays in its file."""
    run("--concurrency", 1, "--point", "fast")
    cascade.models["pitch_tiny"] = replace(cascade.models["pitch_tiny"], max_batch_size=2)
    run("--concurrency", 1, "--point", "fast")
    assert len(fake_perf_analyzer.calls(perf)) == 2
    np.save(rows_file, np.array([row(1, 0.5)]))
    run("--concurrency", 2, "--point", "fast")
    assert len(fake_perf_analyzer.calls(perf)) == 3
    assert len(list((tmp_path / "out").glob("levels-*.json"))) == 3
    assert len(lines_of(tmp_path)) == 1

    np.save(rows_file, np.array([row(2, 0.9), row(1, 0.1)]))
    run("--concurrency", 1, "--point", "fast")
    assert len(fake_perf_analyzer.calls(perf)) == 3
    assert [line["level"] for line in lines_of(tmp_path)] == ["1.0"]


def test_a_level_that_fails_is_a_finding(run, perf, tmp_path):
    """The others are measured; next time it is tried again."""
    result = run("--rate", "100,600,2000", "--point", "fast")

    assert result.exit_code == 0
    lines = lines_of(tmp_path)
    assert [line["state"] for line in lines] == ["ok", "behind", "failed"]
    assert "queue full, 256 rows may wait" in lines[2]["note"]
    assert "fast, 2000/s: perf_analyzer: " in result.stdout
    run("--rate", "100,600,2000", "--point", "fast")
    assert len(fake_perf_analyzer.calls(perf)) == 4


def test_a_server_that_falls_behind_is_told_from_requests_at_the_edges(run, tmp_path):
    """500 of 560 a second are too few; that 2 of 20 requests end outside is nothing."""
    run("--rate", "2,560", "--seconds", 10, "--point", "fast")

    assert [line["state"] for line in lines_of(tmp_path)] == ["ok", "behind"]


def test_nothing_measured_is_an_error(run):
    """With the reason of the first."""
    result = run("--rate", 2000, "--point", "fast")

    assert result.exit_code == 1
    assert "Error: sweep: none of 1 levels could be measured" in result.stderr
    assert "queue full" in result.stderr


def test_the_highest_rate_that_keeps_a_target_is_found(run):
    """Here p99 = 15 ms / (1 - rate / 500): 50 ms are kept up to 350 requests a second."""
    result = run("--target-p99-ms", 50, "--point", "fast", "--tolerance", 0.02, "--json")
    (found,) = json.loads(result.stdout)["found"]

    assert result.exit_code == 0
    assert 350 / 1.03 < found["rate"] <= 350
    assert found["level"]["p99_ms"] <= 50
    assert found["level"]["seconds"] == 10  # the rate that is promised was measured longer
    assert not found["capped"]


def test_a_rate_that_is_not_kept_up_meets_no_target():
    """However quick the answers that did come."""
    level = Level(load="rate", value=9.0, seconds=1.0)
    kept = Measured(candidate="fast", level=level, state="ok", when="now", p95_ms=4.0, p99_ms=9.0)

    assert Target(99, 9.0).met(kept)
    assert not Target(99, 8.9).met(kept)
    assert Target(95, 8.9).met(kept)
    assert not Target(99, 9.0).met(replace(kept, state="behind"))


def test_a_target_nobody_keeps_is_refused_with_the_nearest(run):
    """Exit status 1 after everything is written."""
    result = run("--target-p95-ms", 5, "--point", "fast")

    assert result.exit_code == 1
    assert "Error: sweep: no rate keeps p95 <= 5 ms: fast: best p95 10." in result.stderr
    assert "p95 <= 5 ms" in result.stdout


def test_a_target_everyone_keeps_is_said_to_be_open(run):
    """The highest rate that was tried holds, so the answer is a lower bound."""
    result = run("--target-p99-ms", 100, "--concurrency", 2, "--point", "fast", "--json")
    (found,) = json.loads(result.stdout)["found"]

    # Twice what closed loops got, however few requests the first of them had at once.
    assert (found["rate"], found["capped"]) == (400, True)


def test_time_that_is_over_ends_it_between_levels(url, perf, rows_file, tmp_path):
    """What was measured is kept, and what is left is said."""
    ticks = iter(range(0, 1000, 50))
    levels = tuple(Level(load="concurrency", value=n, seconds=1) for n in (1, 2, 4))
    plan = Plan(levels=levels, minutes=2, target=Target(99, 50))

    swept, store = sweep(
        url,
        "pitch",
        folder=tmp_path / "out",
        plan=plan,
        paths=[rows_file],
        points=["fast"],
        clock=lambda: next(ticks),
    )

    assert [one.level.value for one in swept.levels] == [1, 2]
    assert swept.left == "1 level and 1 search"
    assert len(store.all()) == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--random", 3), "give either FILES or --random N"),
        (("--target-p99-ms", 1, "--target-p95-ms", 1), "either --target-p99-ms or"),
        (("--concurrency", "1:8"), "expected a number, FROM:TO:STEP"),
        (("--concurrency", "1.5"), "expected whole numbers"),
    ],
)
def test_wrong_usage_is_explained(run, args, said):
    """Exit status 2, nothing on stdout."""
    result = run(*args)

    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_http_is_wrong_usage(run):
    """perf_analyzer's request parameters need gRPC."""
    assert run(url="http://127.0.0.1:1").exit_code == 2


def test_a_missing_perf_analyzer_says_how_to_get_it(url, rows_file, monkeypatch, tmp_path):
    """Before anything is read."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    line = ["--url", url, "--cascade", "pitch", "sweep", str(rows_file)]
    result = CliRunner().invoke(main, line, catch_exceptions=False)

    assert result.exit_code == 1
    assert "make perf-analyzer" in result.stderr


def test_without_matplotlib_the_csv_is_written(run, monkeypatch, tmp_path):
    """The pictures are missed, with what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run("--concurrency", 1, plots=True)

    assert result.exit_code == 1
    assert "pip install 'triton-cascade[plots]'" in result.stderr
    assert len(lines_of(tmp_path)) == 2
    assert run("--concurrency", 1).exit_code == 0


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    """Nothing is written over."""
    store = Store(tmp_path, {"tiers": []})
    level = Level(load="rate", value=1.0, seconds=1.0)
    store.add(Measured(candidate="fast", level=level, state="ok", when="now"))
    (kept,) = tmp_path.glob("levels-*.json")
    for content in ("nothing", "[]", '{"levels": [{"candidate": "x"}]}'):
        kept.write_text(content)
        with pytest.raises(ServerError, match="cannot be used"):
            Store(tmp_path, {"tiers": []})
