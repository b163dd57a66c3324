"""``cascade-builder plan``: what it prints and refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import records

from cascade_builder.cli import main


def run(*options, code=0):
    done = CliRunner().invoke(main, ["plan", *map(str, options)])
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "records.npz"
    records(n=400).save(path)
    return path


def test_a_plan_is_printed_for_people(pool):
    """A cascade per usual goal, every expert alone, what each brings, what was not looked at."""
    text = run(pool).stdout

    for word in ("careful", "balanced", "fast", "half", "quarter", "tier2 alone", "perfect gate"):
        assert word in text
    assert "balanced: expert" in text
    assert "Chosen on 160 rows, measured on 120 others; the 120" in text


def test_json_is_the_same_plan_for_machines(pool):
    """It holds what was asked for and nothing that JSON has no word for."""
    found = json.loads(run(pool, "--goal", "a=drop:0.05", "--mean-ms", 8, "--json").stdout)

    assert [pick["name"] for pick in found["picks"]] == ["a", "asked"]
    assert found["picks"][0]["goal"] == {"drop": 0.05}
    assert found["picks"][1]["figures"]["cost_ms"] < 9
    assert len(found["picks"][0]["gains"]) == 3


def test_a_spec_stands_for_its_records(tmp_path, monkeypatch, pool):
    """They lie where `record` writes them; where they are not, the command to run is named."""
    monkeypatch.chdir(tmp_path)
    done = run("pitch", code=1)
    assert "there are no records" in done.stderr
    assert "cascade-builder record pitch --data D" in done.stderr

    (tmp_path / "build" / "pitch").mkdir(parents=True)
    (tmp_path / "build" / "pitch" / "records.npz").write_bytes(pool.read_bytes())
    assert "made_up: goal" in run("pitch", "--drop", 0.05).stdout


def test_what_cannot_be_planned_is_refused(tmp_path, pool):
    """Too few rows, an impossible budget, a broken file, a wrong option: each its own words."""
    few = tmp_path / "few.npz"
    records(n=60).save(few)
    assert "60 rows leave 24 to choose on and 18 to measure on" in run(few, code=1).stderr
    assert "no cascade of this pool meets it" in run(pool, "--mean-ms", 0.1, code=1).stderr
    few.write_bytes(pool.read_bytes()[:500])
    assert "cannot be read as records" in run(few, code=1).stderr
    assert "is no goal" in run(pool, "--goal", "a=speed:3", code=2).stderr
    np.savez(few, x=np.zeros(3))
    assert "help:" in run(few, code=1).stderr
