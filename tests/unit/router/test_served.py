"""The policy in force follows its files; what cannot be used never takes its place."""

import dataclasses
import errno
import json
import os

import pytest

from cascade_router import Gate, OperatingPoint, Policy, PolicyError, RequestError, Tier
from cascade_router.files import MOST_BYTES
from cascade_router.served import ServedPolicy, Switch

POLICY = Policy(
    cascade="c",
    activation="softmax",
    n_classes=2,
    tiers=tuple(Tier(name=n, model=n, digest=f"d-{n}") for n in "ab"),
    points=tuple(
        OperatingPoint(name=n, gates=(Gate(threshold=t), Gate()))
        for n, t in (("fast", 0.5), ("exact", 0.9))
    ),
    default="fast",
)


def replace_file(path, text):
    """Write beside and rename, as a careful writer does."""
    draft = path.with_suffix(".new")
    draft.write_text(text)
    draft.replace(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "policy.json").write_text(POLICY.to_json())
    experts = [{"name": t.name, "digest": t.digest} for t in POLICY.tiers]
    (tmp_path / "manifest.json").write_text(json.dumps({"cascade": "c", "experts": experts}))
    return tmp_path


@pytest.fixture
def served(folder):
    return ServedPolicy(folder, clock=lambda: "noon")


def test_a_replaced_policy_is_taken(served, folder):
    """A new calibration is in force after the next look."""
    points = (OperatingPoint(name="new", gates=(Gate(threshold=0.7), Gate())),)
    replace_file(
        folder / "policy.json",
        dataclasses.replace(POLICY, points=points, default="new").to_json(),
    )

    served.refresh()

    assert served.policy.default == "new"
    assert served.refused is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (POLICY.to_json()[:200], "not JSON"),
        ("garbage", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
        (dataclasses.replace(POLICY, cascade="d").to_json(), "made for cascade 'd'"),
        (POLICY.to_json().replace("d-b", "d-x"), "tier 'b' was calibrated as d-x"),
        (
            json.dumps(
                json.loads(POLICY.to_json())
                | {
                    "tiers": json.loads(POLICY.to_json())["tiers"][::-1],
                }
            ),
            "has tiers b d-b, a d-a, the router runs a d-a, b d-b",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_and_the_last_good_one_stays(served, folder, text, reason):
    """Truncated, garbage, foreign: the reason is kept until a good policy comes."""
    before = served.policy
    replace_file(folder / "policy.json", text)
    served.refresh()

    assert served.policy is before
    assert reason in served.refused

    replace_file(folder / "policy.json", POLICY.to_json())
    served.refresh()
    assert served.refused is None


def changed(**values):
    return json.dumps(json.loads(POLICY.to_json()) | values)


def with_tier(**values):
    tiers = json.loads(POLICY.to_json())["tiers"]
    return changed(tiers=[{**tier, **values} for tier in tiers])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (changed(n_classes=3), "is for 3 classes, the router's experts have 2"),
        (changed(n_classes=10**12), "classes, the router's experts have 2"),
        (changed(provenance={"drift": float("nan")}), "NaN is no number"),
        (with_tier(cost_ms={"0": 1.0}), "'0' is no batch size"),
        (with_tier(cost_ms={"a": 1.0}), "'a' is no batch size"),
        (with_tier(cost_ms={"9" * 5000: 1.0}), "is no batch size"),
        (with_tier(cost_ms={"1": -1.0}), "expected 0.0 to inf"),
        (with_tier(cost_ms={"1": None}), "'1' is missing"),
        (POLICY.to_json().replace("0.5", "1" + "0" * 400), "got inf"),
    ],
)
def test_values_that_no_policy_can_have_are_refused(served, folder, text, reason):
    """Whatever they would do later: stop the counters, or fail every answer."""
    replace_file(folder / "policy.json", text)
    served.refresh()

    assert reason in served.refused
    assert served.policy == POLICY


def test_a_manifest_that_is_no_table_is_refused(served, folder):
    """And so is one whose experts are none: the reason is told, whatever it is."""
    for text in ("[]", '{"cascade": "c", "experts": [1]}'):
        replace_file(folder / "manifest.json", text)
        served.refresh()

        assert served.refused is not None
        assert served.policy == POLICY


def test_nothing_is_switched_while_the_policy_is_refused(served, folder):
    """Else the switch would come into force some day, unasked; a broken switch may be replaced."""
    replace_file(folder / "policy.json", "garbage")
    with pytest.raises(PolicyError, match="not JSON"):
        served.set_default("exact", "ann")
    assert not (folder / "switch.json").exists()

    replace_file(folder / "policy.json", POLICY.to_json())
    replace_file(folder / "switch.json", "garbage")
    served.set_default("exact", "ann")
    assert (served.policy.default, served.refused) == ("exact", None)


@pytest.mark.parametrize("name", ["policy.json", "switch.json", "manifest.json"])
@pytest.mark.parametrize(
    ("put", "reason"),
    [
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
        (lambda path: path.symlink_to("/nowhere/at/all"), "No such file"),
        (os.mkdir, "no regular file"),
        (lambda path: (path.touch(), os.truncate(path, MOST_BYTES + 1)), "more than 64 MiB"),
    ],
    ids=["pipe", "endless", "dangling", "folder", "huge"],
)
def test_what_is_no_readable_file_is_refused_and_holds_nobody(served, folder, name, put, reason):
    """A pipe would catch the reader for good: after it a good file must still be seen."""
    good = (folder / name).read_bytes() if (folder / name).exists() else None
    (folder / name).unlink(missing_ok=True)
    put(folder / name)
    served.refresh()

    if name == "switch.json" and reason == "No such file":
        assert served.refused is None  # as if nothing had been switched
    else:
        assert reason in served.refused
    assert served.policy == POLICY

    (folder / name).rmdir() if (folder / name).is_dir() else (folder / name).unlink()
    if good is not None:
        (folder / name).write_bytes(good)
    served.refresh()
    assert served.refused is None


def test_a_policy_whose_times_were_kept_is_seen(served, folder):
    """A copy in place that brings an old time along, of the same length as what was there."""
    path = folder / "policy.json"
    before = path.stat()
    path.write_text(path.read_text().replace("0.5", "0.7"))
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # of a coarse clock
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    served.refresh()

    assert served.policy.points[0].gates[0].threshold == 0.7


def test_a_file_that_could_not_be_read_for_a_moment_is_read_again(served, folder, monkeypatch):
    """No handle was left, or a disk was away: nothing about the file says that it is back."""
    points = (OperatingPoint(name="new", gates=(Gate(threshold=0.7), Gate())),)
    policy = dataclasses.replace(POLICY, points=points, default="new")
    replace_file(folder / "policy.json", policy.to_json())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        served.refresh()
    assert "Too many open files" in served.refused
    assert served.policy == POLICY

    served.refresh()
    assert (served.policy.default, served.refused) == ("new", None)


def failing(*args, **kwargs):
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_repository_that_was_built_anew_waits_until_its_experts_are_loaded(served, folder):
    """The running experts are the old ones: a policy for the new ones does not hold for them."""
    for name in ("policy.json", "manifest.json"):
        replace_file(folder / name, (folder / name).read_text().replace("d-b", "d-built-anew"))
    served.refresh()

    assert served.policy == POLICY
    assert "has tiers a d-a, b d-built-anew, the router runs a d-a, b d-b" in served.refused
    assert ServedPolicy(folder).policy.tiers[1].digest == "d-built-anew"


def test_nothing_starts_beside_a_build_that_was_interrupted(served, folder):
    """The builder says so in the manifest while folders of two builds are mixed."""
    values = {"cascade": "c", "unfinished": True, "experts": []}
    replace_file(folder / "manifest.json", json.dumps(values))
    served.refresh()

    assert served.policy == POLICY
    with pytest.raises(PolicyError, match="interrupted") as caught:
        ServedPolicy(folder)
    assert "completes" in caught.value.hint


def test_a_policy_that_vanishes_or_cannot_be_read_is_refused(served, folder):
    """A deleted file changes nothing but the report."""
    os.remove(folder / "policy.json")
    served.refresh()

    assert "cannot be read" in served.refused
    assert served.policy == POLICY


def test_without_a_usable_policy_nothing_starts(folder):
    """At the start there is no last good one to keep."""
    (folder / "policy.json").write_text("{")

    with pytest.raises(PolicyError, match="not JSON"):
        ServedPolicy(folder)


def test_a_switch_reaches_every_instance_and_survives_a_restart(served, folder):
    """Another instance sees the new default at its next look, a new one when it starts."""
    other = ServedPolicy(folder)
    served.set_default("exact", "ann")
    other.refresh()

    assert [s.policy.default for s in (served, other, ServedPolicy(folder))] == ["exact"] * 3
    assert other.switch.changes == (
        {"when": "noon", "who": "ann", "was": "fast", "point": "exact"},
    )


def test_an_unknown_point_is_refused_and_nothing_changes(served, folder):
    """The caller is told the points there are; no file is written."""
    with pytest.raises(RequestError, match="'turbo' is unknown; this policy has fast, exact"):
        served.set_default("turbo", "ann")

    assert not (folder / "switch.json").exists()


def test_a_switch_to_a_point_that_a_new_policy_lacks_is_passed_over(served, folder):
    """The new policy's own default holds then."""
    served.set_default("exact", "ann")
    points = (POLICY.points[0],)
    replace_file(folder / "policy.json", dataclasses.replace(POLICY, points=points).to_json())
    served.refresh()

    assert served.policy.default == "fast"
    assert served.refused is None


def test_only_the_newest_hundred_changes_are_kept(folder):
    """The record does not grow without end."""
    switch = Switch()
    for i in range(150):
        switch = switch.to(f"p{i}", was="x", who="w", when="t")

    switch.write(folder)

    assert Switch.read(folder) == switch
    assert [c["point"] for c in switch.changes] == [f"p{i}" for i in range(50, 150)]


def test_a_switch_that_cannot_be_written_leaves_nothing_behind(served, folder):
    """Neither a draft nor another point."""
    (folder / "switch.json").mkdir()
    names = sorted(path.name for path in folder.iterdir())

    with pytest.raises(OSError, match="directory"):
        served.switch.to("p", was="p", who="ann", when="now").write(folder)

    assert sorted(path.name for path in folder.iterdir()) == names
