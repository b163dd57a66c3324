"""``cascade-builder calibrate``: what it prints, writes and refuses."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import records

from cascade_builder.calibration import usual_goals
from cascade_builder.cli import main
from cascade_router import Policy
from cascade_router.manifest import check_policy, read_manifest

SPEC = """
[cascade]
name = "made_up"
activation = "softmax"
classes = 4

[input]
kind = "tensor"
name = "X"
dtype = "FP32"
shape = [8]

[rows]
factory = "nothing:rows"

[[expert]]
name = "tier0"
factory = "nothing:expert"

[[expert]]
name = "tier1"
factory = "nothing:expert"

[[point]]
name = "balanced"
threshold = 0.5
"""


class Place:
    """A built cascade whose experts never were, its records, and the command."""

    def __init__(self, root):
        self.root = root
        self.spec = root / "cascade.toml"
        self.records = root / "records.npz"
        self.router = root / "models" / "made_up_router" / "1"
        self.policy = self.router / "policy.json"
        self.report = root / "report"

    def run(self, *options, code=0, report=False):
        command = ["calibrate", str(self.spec), "--records", str(self.records), "--batch", "1"]
        command += ["--repository", str(self.root / "models")]
        command += ["--report", str(self.report)] if report else ["--no-report"]
        result = CliRunner().invoke(main, [*command, *map(str, options)])
        assert result.exit_code == code, result.output
        return result

    def read(self):
        return Policy.read(self.policy)

    def manifest(self, digests):
        experts = [
            {"name": f"tier{k}", "model": f"made_up_tier{k}", "digest": digest}
            for k, digest in enumerate(digests)
        ]
        text = json.dumps({"schema": 1, "cascade": "made_up", "experts": experts})
        (self.router / "manifest.json").write_text(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("made"))
    (place.root / "nothing.py").write_text("def expert():\n    pass\n\n\ndef rows():\n    pass\n")
    place.spec.write_text(SPEC)
    place.router.mkdir(parents=True)
    place.manifest([f"sha256:{k}" for k in range(2)])
    records(n=600, n_tiers=2).save(place.records)
    return place.root


@pytest.fixture
def place(made, tmp_path):
    shutil.copytree(made, tmp_path / "here")
    return Place(tmp_path / "here")


def test_the_policy_is_put_in_force_and_told(place):
    """The ladder on stdout, certified points for these experts, the report beside."""
    goals = ("--goal", "safe=drop:0.12", "--goal", "cheap=mean-ms:2.5")
    result = place.run(*goals, report=True)
    policy = place.read()
    check_policy(policy, read_manifest(place.router))
    assert sorted(policy.point_names) == ["cheap", "exact", "safe"]
    assert all(point.certificate for point in policy.points)
    assert policy.default == "safe"
    assert policy.provenance["made_by"] == "cascade-builder calibrate"
    assert policy.provenance["records"]["rows"] == 600
    assert result.stdout.startswith("made_up: ")
    for text in ("cheaper than tier1 alone", "safe (default)", "tier0 alone", "level 95 %"):
        assert text in " ".join(result.stdout.split())
    assert "policy.json: written" in result.stdout
    assert (place.report / "report.html").is_file()
    assert list(place.router.glob(".*")) == []


def test_the_policy_before_is_kept_aside(place):
    """As policy.json.old; points that are gone are named on stderr."""
    place.run("--goal", "early=drop:0.12")
    before = place.policy.read_text()
    result = place.run("--goal", "late=drop:0.12", "--agreement")
    assert (place.router / "policy.json.old").read_text() == before
    assert place.read().point_names[0] == "late"
    assert "replaced, the one before is policy.json.old" in result.stdout
    assert "no longer there: early" in result.stderr


def test_the_same_again_changes_nothing(place):
    """A running router has nothing to pick up, and the policy aside is not lost."""
    place.policy.write_text("{}")
    place.run("--drop", "0.12")
    before = place.policy.read_bytes()
    result = place.run("--drop", "0.12")
    assert place.policy.read_bytes() == before
    assert (place.router / "policy.json.old").read_text() == "{}"
    assert "policy.json: kept" in result.stdout


def test_short_options_make_one_point(place):
    """Together with named goals; its name is `asked`."""
    result = place.run("--drop", "0.12", "--worst-ms", "25", "--goal", "g=efficiency:0.5")
    assert sorted(place.read().point_names) == ["asked", "exact", "g"]
    assert "asked" in result.stdout


def test_the_default_is_who_promises_most_or_who_is_named(place):
    """All points hold together, so any may be the default; the page speaks of it."""
    goals = ("--goal", "loose=drop:0.2", "--goal", "tight=drop:0.12")
    found = json.loads(place.run(*goals, "--json").stdout)["verdict"]
    assert place.read().default == "tight"
    assert found["reason"].startswith("tight: ")
    quality = sum(row[1] * row[3] for row in found["classes"]) / found["rows"]["check"]
    by_name = {point["name"]: point for point in found["points"]}
    assert quality == pytest.approx(by_name["tight"]["quality"])
    place.run(*goals, "--default", "loose")
    assert place.read().default == "loose"
    place.run(*goals, "--default", "exact")
    assert place.read().default == "exact"


def test_refused_goals_are_left_out_and_named(place):
    """The others are put in force."""
    result = place.run("--goal", "tight=drop:0.005", "--goal", "loose=drop:0.12")
    assert "tight is not in the ladder" in result.stdout
    assert place.read().point_names[0] == "loose"


@pytest.mark.parametrize("default", [(), ("--default", "g")], ids=["open", "named"])
def test_nothing_certified_is_an_error_with_a_way_out(place, default):
    """The best that can be promised, and how many rows the wish would need; nothing is written."""
    result = place.run("--goal", "g=drop:0.005", *default, code=1)
    assert "certified" in result.stderr
    assert "best that can be promised: 0.0" in result.stderr
    assert "help: allow a drop of 0.0" in result.stderr
    assert not place.policy.exists()


def test_a_cascade_that_does_not_pay_is_not_put_in_force(place):
    """Said on stdout and stderr, with numbers and the model to serve; --force writes it."""
    made = records(n=600, n_tiers=2)
    made.tiers[0].logits[:] = made.tiers[1].logits
    made.save(place.records)
    result = place.run("--drop", "0.12", code=1, report=True)
    assert "Do not cascade" in result.stdout
    assert "policy.json: not written" in result.stdout
    assert "Error: calibrate: do not cascade. asked: quality 0." in result.stderr
    assert "--force" in result.stderr
    assert not place.policy.exists()
    assert "Do not cascade" in (place.report / "report.html").read_text()
    forced = place.run("--drop", "0.12", "--force")
    assert "Do not cascade" in forced.stdout
    assert place.read().default == "asked"


def test_a_dry_run_writes_nothing(place):
    """It prints the same ladder."""
    before = sorted(place.root.rglob("*"))
    result = place.run("--drop", "0.12", "--dry-run", report=True)
    assert sorted(place.root.rglob("*")) == before
    assert "policy.json: would be written" in result.stdout
    assert "asked (default)" in result.stdout


def test_json_is_all_of_stdout(place):
    """For scripts: action, files and the whole verdict."""
    values = json.loads(place.run("--drop", "0.12", "--json").stdout)
    assert values["policy"] == "written"
    assert values["policy_file"] == str(place.policy)
    assert values["verdict"]["cascade_pays"] is True
    assert values["verdict"]["default"] == "asked"


def test_agreement_needs_no_labels(place):
    """And labels may be left aside where they are."""
    place.run("--drop", "0.12", "--agreement")
    point = place.read().points[0]
    assert point.certificate["promise"] == "agreement drop at most"
    records(n=600, n_tiers=2, labels=False).save(place.records)
    place.run("--drop", "0.12")
    result = place.run("--drop", "0.12", "--labels", code=1)
    assert "hold no labels" in result.stderr


def test_the_level_is_what_was_asked(place):
    """It stands in every certificate."""
    place.run("--drop", "0.12", "--level", "0.9")
    assert [point.certificate["level"] for point in place.read().points] == [0.9, 0.9]


def test_records_of_another_expert_are_refused(place):
    """The tier is named; the policy in force stays."""
    place.manifest(["sha256:0", "sha256:other"])
    result = place.run("--drop", "0.12", code=1)
    assert "tier 'tier1' was recorded as sha256:1, the repository holds sha256:other" in (
        result.stderr
    )
    assert "cascade-builder record" in result.stderr
    assert not place.policy.exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"cascade": "other"}, "cascade is 'other', the spec says 'made_up'"),
        ({"label_tolerance": 2}, "label_tolerance is 2, the spec says 0"),
        ({"activation": "sigmoid"}, "activation is 'sigmoid', the spec says 'softmax'"),
        ({"tiers": slice(1, 2)}, "tiers are tier1, expected tier0, tier1"),
    ],
    ids=["cascade", "tolerance", "activation", "tiers"],
)
def test_records_of_another_task_are_refused(place, change, expected):
    """What differs is named."""
    made = records(n=60, n_tiers=2)
    if "tiers" in change:
        change = {"tiers": made.tiers[change["tiers"]]}
    dataclasses.replace(made, **change).save(place.records)
    assert expected in place.run("--drop", "0.12", code=1).stderr


def test_records_that_cannot_be_read_are_named(place):
    """Missing, torn or foreign: the file and the next step."""
    whole = place.records.read_bytes()
    place.records.write_bytes(whole[: len(whole) // 2])
    assert "records.npz: cannot be read as records" in place.run(code=1).stderr
    np.savez(place.records, x=np.zeros(3))
    assert "records.npz: cannot be read as records" in place.run(code=1).stderr
    place.records.unlink()
    missing = place.run(code=1).stderr
    assert "records.npz: there are no records" in missing
    assert "help: run `cascade-builder record made_up --data D`" in missing


def test_a_repository_that_is_not_built_is_named(place):
    """With the command that builds it."""
    (place.router / "manifest.json").write_text("{}")
    assert "does not say which experts there are" in place.run(code=1).stderr
    (place.router / "manifest.json").unlink()
    result = place.run(code=1)
    assert "holds no built cascade 'made_up'" in result.stderr
    assert "help: run `cascade-builder build made_up" in result.stderr


def test_an_operators_switch_is_mentioned(place):
    """It outlives a calibration where its point does."""
    place.run("--goal", "a=drop:0.12")
    switch = place.router / "switch.json"
    switch.write_text(json.dumps({"default": "a", "changes": []}))
    stays = place.run("--goal", "a=drop:0.12", "--goal", "b=drop:0.2")
    assert "an operator switched the default to a; that stays" in stays.stderr
    gone = place.run("--goal", "b=drop:0.2")
    assert "an operator switched to a, which is gone" in gone.stderr


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (["--goal", "x"], 2, "expected NAME=drop:0.01"),
        (["--goal", "x=speed:3"], 2, "'speed' is no goal"),
        (["--goal", "x=drop:low"], 2, "'low' is no number"),
        (["--goal", "x=drop:0.1", "--goal", "x=drop:0.2"], 2, "two goals share a name"),
        (["--goal", "asked=drop:0.1", "--drop", "0.1"], 2, "a goal is named 'asked'"),
        (["--goal", "exact=drop:0.1"], 1, "a point cannot be called 'exact'"),
        (["--drop", "2"], 1, "drop: got 2.0, expected 0 to 1"),
        (["--drop", "nan"], 1, "drop: got nan"),
        (["--default", "other"], 1, "default 'other' is none of"),
        (["--level", "1"], 2, "--level"),
        (["--mean-ms", "0.5"], 1, "no point costs at most"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(place, options, code, expected):
    """Wrong usage is 2, an impossible wish 1; nothing is written."""
    assert expected in place.run(*options, code=code).stderr
    assert not place.policy.exists()


def test_usual_goals_depend_on_the_number_of_rows_alone():
    """Never tighter with fewer rows; three rising drops always."""
    tightest = 1.0
    for n in (0, 10, 100, 390, 806, 2000, 100_000):
        drops = [goal.drop for goal in usual_goals(n).values()]
        assert drops == sorted(drops)
        assert len(drops) == 3
        assert drops[0] <= tightest
        tightest = drops[0]
    assert tightest == 0.005


def test_without_goals_there_is_a_ladder(place):
    """Careful, balanced and fast as far as the rows support them."""
    place.run()
    assert set(place.read().point_names) <= {"careful", "balanced", "fast", "exact"}
    assert len(place.read().points) > 1


def test_help_imports_nothing_heavy():
    """It must answer at once."""
    code = (
        "import sys; from click.testing import CliRunner; from cascade_builder.cli import main;"
        "r = CliRunner().invoke(main, ['calibrate', '--help']); assert r.exit_code == 0;"
        "print([m for m in ('numpy', 'scipy', 'matplotlib', 'jinja2', 'rich', 'torch')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = set(json.loads(done.stdout.replace("'", '"'))) - {"numpy"}
    assert heavy == set()
