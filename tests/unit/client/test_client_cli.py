"""``cascade-client`` on a served cascade, by gRPC on loopback."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from fake_cascade import FakeCascade, row
from fake_wire import serve_grpc

from cascade_client.calls import Port
from cascade_client.cli import main


@pytest.fixture
def run(fake):
    """Run the command line against the fake cascade."""
    with serve_grpc(fake) as url:

        def invoke(*args, cascade="pitch"):
            line = ["--url", url, "--cascade", cascade, *map(str, args)]
            return CliRunner().invoke(main, line, catch_exceptions=False)

        yield invoke


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([row(2, 0.9), row(1, 0.1)]))
    return path


def test_infer_prints_labels_tier_and_time(run, rows_file):
    """One line per row and class."""
    result = run("infer", rows_file, "--top", 1)

    assert result.exit_code == 0
    assert result.stderr == ""
    lines = [line.split() for line in result.stdout.splitlines() if "rows.npy" in line]
    assert [line[1:5] for line in lines] == [
        ["mi", "1.000", "0", "tiny"],
        ["re", "1.000", "1", "full"],
    ]


def test_infer_for_machines(run, rows_file):
    """JSON on stdout and nothing else."""
    result = run("infer", rows_file, "--json", "--top", 2, "--min-tier", 1)
    first = json.loads(result.stdout)[0]

    assert first["row"].endswith("rows.npy[0]")
    assert (first["label"], first["label_name"], first["tier_name"]) == (2, "mi", "full")
    assert [ranked["name"] for ranked in first["top"]] == ["mi", "do"]


def test_pictures_are_answered_file_by_file(tmp_path):
    """A folder stands for the pictures in it; the empty one is named."""
    fake = FakeCascade(port=Port("IMAGE", "BYTES", (1,)))
    for name, content in (("a.jpg", b"1"), ("b.png", b"12"), ("c.jpg", b""), ("d.txt", b"x")):
        (tmp_path / name).write_bytes(content)
    with serve_grpc(fake) as url:
        line = ["--url", url, "--cascade", "pitch", "infer", str(tmp_path), "--json"]
        result = CliRunner().invoke(main, line, catch_exceptions=False)

    answers = json.loads(result.stdout)
    assert [(a["row"], a["label"]) for a in answers] == [
        (str(tmp_path / "a.jpg"), 1),
        (str(tmp_path / "b.png"), 2),
    ]
    assert result.stderr == f"Error: {tmp_path / 'c.jpg'}: the file is empty, expected a picture\n"
    assert result.exit_code == 1


def test_a_bad_file_does_not_spoil_the_others(run, rows_file, tmp_path):
    """It is reported, the rest is answered, the exit status is 1."""
    result = run("infer", tmp_path / "gone.npy", rows_file, "--json")

    assert result.exit_code == 1
    assert len(json.loads(result.stdout)) == 2
    assert result.stderr.startswith(f"Error: {tmp_path / 'gone.npy'}: cannot be read")
    assert "help: " in result.stderr


def test_a_refused_row_is_named_with_its_file(run, tmp_path):
    """The server's words after the path."""
    np.save(tmp_path / "bad.npy", row(0, 0.5, np.nan))
    result = run("infer", tmp_path / "bad.npy")

    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / 'bad.npy'}: input FRAME: got NaN\n"


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("infer",), 2, "give FILES"),
        (("bench",), 2, "give either FILES or --random N"),
        (("bench", "--random", 2, "--rate", 1, "--concurrency", 1), 2, "either --concurrency"),
        (("infer", "x.npy", "--top", 0), 2, "0 is not in the range"),
        (("infer", "x.npy", "--point"), 2, "requires an argument"),
        (("nothing",), 2, "No such command"),
        (("bench", "--random", 2, "--point", "fats"), 1, "did you mean 'fast'?"),
        (("bench", "--model", "none", "--random", 2), 1, "no 'none'"),
    ],
)
def test_wrong_usage_is_2_and_what_went_wrong_is_1(run, args, status, said):
    """Both explained on stderr, stdout empty."""
    result = run(*args)

    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


def test_a_wrong_url_is_wrong_usage():
    """Said before anything is opened."""
    result = CliRunner().invoke(main, ["--url", "ftp://x", "status"])

    assert result.exit_code == 2
    assert "expected grpc://host:port" in result.stderr


def test_a_server_that_is_down_is_said_in_two_lines():
    """No traceback."""
    result = CliRunner().invoke(main, ["--url", "127.0.0.1:1", "status"], catch_exceptions=False)

    assert result.exit_code == 1
    assert [line.partition(" ")[0] for line in result.stderr.splitlines()] == ["Error:", "help:"]


def test_a_wrong_cascade_lists_what_there_is(run):
    """Every command says it alike."""
    for command in (["status"], ["policy", "list"], ["policy", "show"]):
        result = run(*command, cascade="pich")
        assert result.exit_code == 1
        assert "it has cascades: pitch" in result.stderr


def test_status_shows_parts_tiers_and_points(run, fake):
    """Exit status 0 when all is ready, 1 when a part is not."""
    well = run("status", "--wait", 5)
    fake.down.add("pitch_tiny")
    ill = run("status")

    assert (well.exit_code, ill.exit_code) == (0, 1)
    assert well.stdout.startswith("pitch on triton 2.51.0 at 127.0.0.1:")
    for text in ("pitch_router", "sha256:0", "fast", "yes: agreement >= 0.99 at level 0.95"):
        assert text in well.stdout
    assert "no: it fell over" in ill.stdout


def test_status_for_machines(run):
    """What the tables show."""
    values = json.loads(run("status", "--json").stdout)

    assert values["ready"] is True
    assert values["default_point"] == "sure"
    assert [tier["digest"] for tier in values["tiers"]] == ["sha256:0", "sha256:1"]


def test_policy_lists_points_with_their_thresholds(run):
    """Cheapest first, the default marked."""
    lines = run("policy", "list").stdout.splitlines()
    values = json.loads(run("policy", "list", "--json").stdout)

    assert [line.split()[0] for line in lines if "any" in line] == ["fast", "sure"]
    assert "0.25" in next(line for line in lines if line.startswith(" fast"))
    assert (values["default_point"], len(values["points"])) == ("sure", 2)


def test_policy_shows_where_it_comes_from(run):
    """Provenance for people, all of it for machines."""
    assert "made_by: a test" in run("policy", "show").stdout
    assert json.loads(run("policy", "show", "--json").stdout)["manifest"] == {"built": "now"}


def test_bench_prints_one_row_per_candidate(run, rows_file):
    """In the order of the points, then the baselines."""
    options = ("--requests", 8, "--rounds", 2, "--warmup", 0, "--concurrency", 1, "--baselines")
    table = run("bench", rows_file, *options)
    values = json.loads(run("bench", rows_file, *options, "--json").stdout)

    names = ["fast", "sure", "largest alone (full)", "smallest alone (tiny)"]
    found = [n for line in table.stdout.splitlines() for n in names if line.strip().startswith(n)]
    assert found == names
    assert [c["name"] for c in values["candidates"]] == names
    assert [c["requests"] for c in values["candidates"]] == [16] * 4
    assert values["candidates"][0]["tier_share"] == {"0": 0.5, "1": 0.5}
    assert len(values["candidates"][0]["rounds"]) == 2
    assert values["load"]["concurrency"] == 1


def test_bench_loads_an_expert_with_random_rows(run):
    """By an open loop, too; the generator's own lag is shown then."""
    result = run("bench", "--model", "pitch_tiny", "--random", 5, "--rate", 500, "--requests", 5,
                 "--rounds", 1, "--warmup", 0)  # fmt: skip

    assert result.exit_code == 0
    assert "pitch_tiny" in result.stdout
    assert "lag p99 ms" in result.stdout


@pytest.mark.parametrize(
    "command", [[], ["infer"], ["bench"], ["sweep"], ["status"], ["policy"], ["policy", "list"]]
)
def test_help_explains_with_examples(command):
    """Every page; groups of commands list them."""
    result = CliRunner().invoke(main, [*command, "--help"])

    assert result.exit_code == 0
    assert "cascade-client" in result.stdout or "list" in result.stdout


def test_help_loads_no_heavy_library():
    """So that it is fast."""
    heavy = "{'tritonclient', 'grpc', 'rich', 'urllib3', 'aiohttp', 'torch', 'matplotlib'}"
    code = f"import sys, cascade_client.cli; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert out.stdout.strip() == "set()"
