"""Records: what is written is read, and foreign files are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import records

from cascade_builder.records import Records, TierRecord, Top
from cascade_router import CascadeError, Score, probabilities
from cascade_router.errors import RecordsError


def same(a, b):
    assert (a.cascade, a.activation, a.n_classes) == (b.cascade, b.activation, b.n_classes)
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.labels, b.labels)
    for x, y in zip(a.tiers, b.tiers, strict=True):
        assert (x.name, x.model, x.digest, x.cost_ms) == (y.name, y.model, y.digest, y.cost_ms)
        rows = slice(0, len(a))
        np.testing.assert_array_equal(x.block(rows, a.n_classes), y.block(rows, b.n_classes))


def topped(made, keep):
    tiers = tuple(
        TierRecord(
            name=t.name,
            model=t.model,
            digest=t.digest,
            logits=Top.of(t.logits, keep),
            cost_ms=t.cost_ms,
        )
        for t in made.tiers
    )
    return Records(
        cascade=made.cascade,
        activation=made.activation,
        n_classes=made.n_classes,
        tiers=tiers,
        ids=np.array([f"photo{i}.jpg" for i in range(len(made))]),
        labels=made.labels,
    )


@pytest.mark.parametrize("made", [records(), topped(records(n_classes=30), 5)], ids=["all", "top"])
def test_what_is_saved_is_loaded(made, tmp_path):
    """Logits, costs, names and labels come back as they were; no temporary file stays."""
    made.save(tmp_path / "records.npz")
    same(made, Records.load(tmp_path / "records.npz"))
    assert [p.name for p in tmp_path.iterdir()] == ["records.npz"]


def test_saving_again_replaces_the_file_whole(tmp_path):
    """A second save leaves the second records, never a mix."""
    path = tmp_path / "records.npz"
    records(n=50).save(path)
    records(n=60, seed=1).save(path)
    same(records(n=60, seed=1), Records.load(path))


def broken(path, kind):
    made = records(n=20)
    if kind == "pickle":
        np.savez(path, meta=np.array([{"a": 1}], dtype=object))
    elif kind == "torn":
        made.save(path)
        path.write_bytes(path.read_bytes()[:200])
    elif kind == "foreign":
        np.savez(path, x=np.zeros(3))
    elif kind == "schema":
        np.savez(path, meta=np.array('{"schema": 99}'))
    elif kind == "array":
        made.save(path)
        with np.load(path) as file:
            arrays = {k: file[k] for k in file.files if k != "tier1_logits"}
        np.savez(path, **arrays)


@pytest.mark.parametrize("kind", ["missing", "pickle", "torn", "foreign", "schema", "array"])
def test_a_file_that_is_no_records_is_refused(kind, tmp_path):
    """The error names the file and the next step; nothing pickled is ever loaded."""
    path = tmp_path / "records.npz"
    broken(path, kind)
    with pytest.raises(RecordsError, match=r"records\.npz") as caught:
        Records.load(path)
    assert caught.value.hint == "run `cascade-builder record` again"


def test_tiers_that_saw_other_rows_are_refused():
    """All tiers hold logits of the same rows and classes."""
    made = records(n=20)
    short = TierRecord(name="x", model="x", digest="x", logits=np.zeros((19, 4), np.float32))
    with pytest.raises(CascadeError, match="tier 'x'"):
        Records(
            cascade="c",
            activation="softmax",
            n_classes=4,
            tiers=(*made.tiers, short),
            ids=made.ids,
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20))
def test_the_three_sets_share_no_row_and_no_copy(seed, n_ids, copies):
    """Every row is in one set, and all rows of one id in the same."""
    made = records(n=n_ids * 3)
    rng = np.random.default_rng(seed)
    object.__setattr__(made, "ids", rng.integers(0, max(n_ids // copies, 1), n_ids * 3))
    split = made.split(seed)
    sets = [split.fit, split.choose, split.check]
    assert sorted(np.concatenate(sets).tolist()) == list(range(len(made)))
    ids = [set(made.ids[rows].tolist()) for rows in sets]
    assert not ids[0] & ids[1]
    assert not ids[0] & ids[2]
    assert not ids[1] & ids[2]


def test_a_split_keeps_its_shares_and_its_seed():
    """Without copies the sets have their shares; a seed gives one split, another a different."""
    made = records(n=1000)
    split, again, other = made.split(3), made.split(3), made.split(4)
    assert [len(split.fit), len(split.choose), len(split.check)] == [300, 400, 300]
    np.testing.assert_array_equal(split.check, again.check)
    assert set(split.check.tolist()) != set(other.check.tolist())


def test_top_logits_keep_what_a_gate_compares():
    """Label, maximum, margin, gap and energy at temperature 1 are as with all logits."""
    z = np.random.default_rng(0).normal(0, 3, (200, 50)).astype(np.float32)
    back = Top.of(z, 6).dense(slice(0, 200), 50)
    p, q = probabilities(z, "softmax"), probabilities(back, "softmax")
    np.testing.assert_array_equal(p.argmax(axis=1), q.argmax(axis=1))
    for kind in ("max_prob", "margin", "logit_gap", "energy"):
        score = Score(kind=kind)
        expected, actual = score.of(z, p, "softmax"), score.of(back, q, "softmax")
        np.testing.assert_allclose(actual, expected, atol=2e-5)
    entropy = Score(kind="neg_entropy")
    assert (entropy.of(back, q, "softmax") <= entropy.of(z, p, "softmax") + 1e-5).all()


def test_top_logits_survive_a_certain_row():
    """Where the rest has no probability left, the rebuilt tail is low and finite."""
    z = np.array([[80.0, 0.0, -1.0, -2.0]], np.float32)
    back = Top.of(z, 2).dense(slice(0, 1), 4)
    np.testing.assert_array_equal(back[0, :2], z[0, :2])
    assert back[0, 2] == back[0, 3] == pytest.approx(np.log((np.exp(-1) + np.exp(-2)) / 2))
