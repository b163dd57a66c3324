import fcntl
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from cascade_builder.cli import main
from cascade_builder.cost import measure
from cascade_builder.layout import model_names
from cascade_builder.manifest import Built, file_digest, manifest, manifest_json
from cascade_builder.record import Source, record
from cascade_builder.record_report import RecordReport, summary
from cascade_builder.record_shards import Shard, Shards, changes
from cascade_builder.records import Records, Top
from cascade_builder.spec import Spec
from cascade_router.errors import BuildError, CascadeError, RecordsError, SpecError

ROWS = np.random.default_rng(5).standard_normal((100, 8)).astype(np.float32)
WEIGHTS = {
    "small": np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32),
    "large": np.random.default_rng(2).standard_normal((8, 3)).astype(np.float32),
}


def onnx_of(weights: Any, *, picture: bool = False) -> bytes:
    """A linear expert; of a picture it reads the mean colour."""
    graph_in = helper.make_tensor_value_info("FRAME", TensorProto.FLOAT, ["n", 8])
    nodes, name = [], "FRAME"
    if picture:
        graph_in = helper.make_tensor_value_info("PIXELS", TensorProto.UINT8, ["n", 8, 8, 3])
        nodes.append(helper.make_node("Cast", ["PIXELS"], ["f"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceMean", ["f"], ["mean"], axes=[1, 2], keepdims=0))
        name = "mean"
    nodes.append(helper.make_node("MatMul", [name, "w"], ["LOGITS"]))
    out = helper.make_tensor_value_info("LOGITS", TensorProto.FLOAT, ["n", weights.shape[1]])
    graph = helper.make_graph(
        nodes, "g", [graph_in], [out], [numpy_helper.from_array(weights, "w")]
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def lay_out(spec: Spec, root: Path, models: dict[str, bytes]) -> None:
    """Write what of a repository a recording reads."""
    built = []
    for expert in spec.experts:
        path = root / spec.model(expert.name) / "1" / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(models[expert.name])
        digest = file_digest(path)
        built.append(Built(expert=expert, files={"model.onnx": path}, digest=digest))
    router = root / spec.model("router") / "1"
    router.mkdir(parents=True, exist_ok=True)
    values = manifest(spec, "embedded", built, models=model_names(spec), core_digest="")
    (router / "manifest.json").write_text(manifest_json(values))


class Toy:
    """A cascade of two linear experts, its repository and a hundred labelled rows."""

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.repository = folder / "repository"
        self.out = folder / "records.npz"
        self.parts = folder / "records-parts"
        self.told: list[str] = []
        lay_out(spec, self.repository, {n: onnx_of(w) for n, w in WEIGHTS.items()})
        self.save(ROWS)

    def save(self, x: Any, **arrays: Any) -> None:
        y = (x @ WEIGHTS["large"]).argmax(axis=1)
        np.savez(self.folder / "rows.npz", **{"x": x, "y": y, **arrays})

    def source(self, **options: Any) -> Source:
        return Source(**{"path": self.folder / "rows.npz", **options})

    def record(self, source: Source | None = None, **options: Any) -> RecordReport:
        # A clock that leaps: costs take as few runs as they may.
        clock = itertools.count(step=10.0)
        return record(
            self.spec,
            source or self.source(),
            self.repository,
            out=self.out,
            tell=self.told.append,
            clock=lambda: float(next(clock)),
            **options,
        )

    def records(self) -> Records:
        return Records.load(self.out)


@pytest.fixture
def toy(spec_text: str, tmp_path: Path) -> Toy:
    return Toy(Spec.parse(spec_text, tmp_path), tmp_path)


class InterruptedByTestError(Exception):
    """Stands for Ctrl-C."""


def interrupt_after(rows: int) -> Any:
    def progress(done: int, total: int, what: str) -> None:
        if done >= rows:
            raise InterruptedByTestError

    return progress


def test_records_hold_what_the_built_experts_say(toy: Toy) -> None:
    """Every row once, in order, with labels, ids, digests and costs at 1, 2, 4, max_batch."""
    report = toy.record()
    records = toy.records()
    assert (records.cascade, records.activation, len(records)) == ("toy", "softmax", 100)
    for tier in records.tiers:
        np.testing.assert_allclose(tier.logits, ROWS @ WEIGHTS[tier.name], atol=1e-5)
        path = toy.repository / f"toy_{tier.name}" / "1" / "model.onnx"
        assert (tier.model, tier.digest) == (f"toy_{tier.name}", file_digest(path))
        assert list(tier.cost_ms) == [1, 2, 4, 8]
    answers = [(ROWS @ WEIGHTS[name]).argmax(axis=1) for name in WEIGHTS]
    assert records.labels is not None
    assert records.labels.tolist() == answers[1].tolist()
    assert len(set(records.ids.tolist())) == 100
    small, large = report.tiers
    assert small.accuracy == small.agreement == round(float((answers[0] == answers[1]).mean()), 6)
    assert (large.accuracy, large.agreement) == (1.0, 1.0)
    assert (report.action, report.reason) == ("recorded", "not recorded yet")
    assert not toy.parts.exists()


def test_batches_do_not_matter(toy: Toy) -> None:
    """One row at a time gives the same records."""
    toy.record()
    together = toy.records()
    toy.record(batch=1, fresh=True)
    for one, other in zip(toy.records().tiers, together.tiers, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-6)


def test_unlabelled_rows_are_recorded(toy: Toy) -> None:
    """They have agreement, no accuracy."""
    report = toy.record(toy.source(unlabelled=True))
    assert toy.records().labels is None
    assert [tier.accuracy for tier in report.tiers] == [None, None]
    assert "accuracy" not in summary(report)


def test_a_limit_draws_the_same_rows_from_everywhere(toy: Toy) -> None:
    """Not the first ones, which may all be of one class."""
    toy.record(toy.source(limit=20))
    some = toy.records().ids
    toy.record(toy.source(limit=1000))
    everything = toy.records().ids.tolist()
    places = [everything.index(number) for number in some.tolist()]
    assert places == sorted(places)
    assert (len(places), max(places) > 50) == (20, True)


def test_the_same_recording_is_not_made_twice(toy: Toy) -> None:
    """It says so, with the same figures; --fresh makes it again."""
    first, second = toy.record(), toy.record()
    assert (second.action, second.rows_per_s) == ("kept", None)
    assert second.tiers == first.tiers
    assert toy.record(fresh=True).action == "recorded"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda toy: toy.save(ROWS[:50]), "data set changed"),
        (lambda toy: toy.out.write_bytes(b""), "its file is not the one that was recorded"),
        (lambda toy: toy.out.unlink(), "not recorded yet"),
        (lambda toy: toy.out.with_suffix(".json").write_text("{}"), "not the one"),
    ],
)
def test_what_changed_is_recorded_anew(toy: Toy, change: Any, says: str) -> None:
    """The reason is given."""
    toy.record()
    change(toy)
    report = toy.record()
    assert report.action == "recorded"
    assert says in report.reason


def test_a_changed_expert_or_spec_is_named(toy: Toy) -> None:
    """By what of it changed."""
    toy.record()
    models = {"small": onnx_of(WEIGHTS["small"]), "large": onnx_of(-WEIGHTS["large"])}
    lay_out(toy.spec, toy.repository, models)
    assert toy.record().reason == "expert large changed"
    toy.spec = replace(toy.spec, label_tolerance=1)
    assert toy.record().reason == "spec label_tolerance changed"
    assert toy.records().label_tolerance == 1


def test_an_interrupted_recording_goes_on(toy: Toy) -> None:
    """After its last shard; the result is that of one go."""
    with pytest.raises(InterruptedByTestError):
        toy.record(progress=interrupt_after(64))
    assert not toy.out.exists()
    report = toy.record()
    assert (report.action, report.resumed_rows, report.rows) == ("resumed", 64, 100)
    assert toy.told == ["going on after 64 of 100 rows"]
    resumed = toy.records()
    toy.record(fresh=True)
    whole = toy.records()
    assert resumed.ids.tolist() == whole.ids.tolist()
    for one, other in zip(resumed.tiers, whole.tiers, strict=True):
        assert np.array_equal(one.logits, other.logits)


def test_an_interruption_while_costs_are_measured_loses_no_row(toy: Toy) -> None:
    """All shards are there."""

    def progress(done: int, total: int, what: str) -> None:
        if what == "measuring cost":
            raise InterruptedByTestError

    with pytest.raises(InterruptedByTestError):
        toy.record(progress=progress)
    report = toy.record()
    assert (report.resumed_rows, report.rows, report.rows_per_s) == (100, 100, None)


def test_shards_of_other_rows_are_not_gone_on_with(toy: Toy) -> None:
    """It starts anew and says why."""
    with pytest.raises(InterruptedByTestError):
        toy.record(progress=interrupt_after(64))
    toy.save(-ROWS)
    report = toy.record()
    assert (report.action, report.resumed_rows) == ("recorded", 0)
    assert toy.told == ["starting anew: data set changed"]


def test_a_torn_shard_is_recorded_again(toy: Toy) -> None:
    """With all that come after it."""
    with pytest.raises(InterruptedByTestError):
        toy.record(progress=interrupt_after(64), batch=2)
    shards = sorted(toy.parts.glob("*.npz"))
    assert len(shards) == 4
    shards[1].write_bytes(shards[1].read_bytes()[:50])
    report = toy.record(batch=4)
    assert (report.resumed_rows, report.rows) == (16, 100)
    np.testing.assert_allclose(toy.records().tiers[0].logits, ROWS @ WEIGHTS["small"], atol=1e-5)


def test_two_recordings_do_not_write_one_file(toy: Toy) -> None:
    """The second is refused."""
    with toy.parts.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RecordsError, match="another recording writes there"):
            toy.record()


def test_a_folder_of_the_users_is_left_alone(toy: Toy) -> None:
    """Even if it bears the name of ours."""
    toy.parts.mkdir()
    (toy.parts / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(RecordsError, match="holds files that no recording wrote"):
        toy.record()
    assert (toy.parts / "thesis.txt").read_text() == "irreplaceable"


def test_a_row_the_experts_cannot_read_stops_with_its_name(toy: Toy) -> None:
    """Or is left out and counted, and its label with it."""
    rows = ROWS.copy()
    rows[[3, 70]] = np.nan
    toy.save(rows, y=np.arange(100) % 3)
    with pytest.raises(RecordsError, match=r"rows\.npz x\[3\]: expert 'small' answers NaN"):
        toy.record()
    report = toy.record(toy.source(skip_bad=True))
    assert [name for name, _ in report.left_out] == ["rows.npz x[3]", "rows.npz x[70]"]
    assert "left out: 2 rows" in summary(report)
    labels = np.delete(np.arange(100) % 3, [3, 70])
    recorded = toy.records().labels
    assert recorded is not None
    assert recorded.tolist() == labels.tolist()


def test_a_data_set_of_broken_rows_is_refused(toy: Toy) -> None:
    """Records of nothing would calibrate nothing."""
    toy.save(np.full((3, 8), np.nan, np.float32), y=np.zeros(3, int))
    with pytest.raises(RecordsError, match="none of 3 rows can be recorded"):
        toy.record(toy.source(skip_bad=True))


def test_copies_share_an_id(toy: Toy) -> None:
    """They stay in one set; those that contradict each other are counted."""
    toy.save(np.concatenate([ROWS[:10], ROWS[:2]]), y=np.array([0] * 11 + [1]))
    report = toy.record()
    ids = toy.records().ids.tolist()
    assert ids[10:] == ids[:2]
    assert (report.copies, report.contradictions) == (2, 1)
    assert "2 rows are copies of others" in summary(report)


def test_only_the_largest_logits_are_kept_where_asked(toy: Toy) -> None:
    """Answers and figures stay the same."""
    whole = toy.record()
    report = toy.record(top=2)
    assert report.kept_logits == 2
    tier = toy.records().tiers[0]
    assert isinstance(tier.logits, Top)
    expected = np.sort(ROWS @ WEIGHTS["small"], axis=1)[:, :0:-1]
    np.testing.assert_allclose(tier.logits.logits, expected, atol=1e-5)
    assert [t.accuracy for t in report.tiers] == [t.accuracy for t in whole.tiers]
    assert toy.record(top=3).kept_logits is None
    toy.spec = replace(toy.spec, activation="sigmoid")
    with pytest.raises(SpecError, match="--top"):
        toy.record(top=2)


def test_shards_without_a_row_are_merged(tmp_path: Path) -> None:
    """A chunk may hold broken rows only."""
    shards = Shards(tmp_path / "r.npz", {})
    none, one = np.empty(0, np.int64), np.array([4])
    with shards.held():
        assert shards.resume() == (0, None)
        for i, numbers in enumerate([none, one]):
            logits = np.zeros((len(numbers), 3), np.float32)
            shard = Shard(numbers=numbers, ids=numbers, tiers=[logits], bad=[(f"{i}", "why")])
            shards.write(i, i + 1, shard)
        merged = shards.merged()
    assert merged.numbers.tolist() == [4]
    assert merged.bad == [("0", "why"), ("1", "why")]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": 1}, {"a": 2}, "a changed"),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a c changed"),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 3}}, "a changed"),
        ({"a": 1, "b": 2}, {"a": 1}, "another release changed"),
    ],
)
def test_changes_are_named(old: Any, new: Any, says: str | None) -> None:
    """Part by part where the parts are the same."""
    assert changes(old, new) == says


def test_experts_take_turns_when_costs_are_measured() -> None:
    """One warm-up each, then at least five rounds: a slow minute is slow for all."""
    seen: list[tuple[str, int]] = []
    clock: Iterator[int] = itertools.count()
    costs = measure(
        {name: lambda rows, name=name: seen.append((name, len(rows))) for name in "ab"},
        ROWS,
        [1, 4],
        budget_s=0.0,
        clock=lambda: float(next(clock)),
    )
    assert costs == {"a": {1: 1000.0, 4: 1000.0}, "b": {1: 1000.0, 4: 1000.0}}
    assert seen == [("a", 1), ("b", 1)] * 6 + [("a", 4), ("b", 4)] * 6


def _damage(toy: Toy) -> None:
    (toy.repository / "toy_large" / "1" / "model.onnx").write_bytes(b"other")


def _remove(toy: Toy) -> None:
    (toy.repository / "toy_large" / "1" / "model.onnx").unlink()


def _reverse(toy: Toy) -> None:
    toy.spec = replace(toy.spec, experts=toy.spec.experts[::-1])


def _resize(toy: Toy) -> None:
    toy.spec = replace(toy.spec, input=replace(toy.spec.input, shape=(9,)))


def _rename(toy: Toy) -> None:
    toy.spec = replace(toy.spec, name="other")


def _rearrange(toy: Toy) -> None:
    small, large = toy.spec.experts
    source = replace(small.source, arguments={"width": 5})
    toy.spec = replace(toy.spec, experts=(replace(small, source=source), large))


def _more_classes(toy: Toy) -> None:
    wide = np.zeros((8, 4), np.float32)
    lay_out(toy.spec, toy.repository, {"small": onnx_of(wide), "large": onnx_of(wide)})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_damage, r"model\.onnx is sha256:.*, the manifest says sha256:"),
        (_remove, "cannot be read"),
        (_reverse, "holds experts small, large, spec: large, small"),
        (_resize, "the spec's input has changed"),
        (_rename, "holds no cascade 'other'"),
        (_rearrange, "the spec of expert 'small' has changed"),
        (_more_classes, r"expert 'small': got logits \(64, 4\), expected \(64, 3\)"),
    ],
)
def test_experts_other_than_those_built_are_refused(toy: Toy, change: Any, says: str) -> None:
    """Records are of what serves, or they are worth nothing."""
    change(toy)
    with pytest.raises(BuildError, match=says) as caught:
        toy.record()
    assert caught.value.hint


@pytest.fixture
def pictures(spec_text: str, tmp_path: Path) -> Toy:
    """A cascade of pictures, red, green or blue, in a folder per class."""
    form = 'kind = "image"\nsize = 8\n'
    start, end = spec_text.index('kind = "tensor"'), spec_text.index("[rows]")
    toy = Toy(Spec.parse(spec_text, tmp_path), tmp_path)
    toy.spec = Spec.parse(spec_text[:start] + form + spec_text[end:], tmp_path)
    weights = {"small": np.ones((3, 3)) / 255, "large": np.eye(3) / 255}
    models = {n: onnx_of(w.astype(np.float32), picture=True) for n, w in weights.items()}
    lay_out(toy.spec, toy.repository, models)
    for i in range(6):
        colour = [0, 0, 0]
        colour[i % 3] = 200 + i
        path = tmp_path / "data" / str(i % 3) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 9), tuple(colour)).save(path)
    return toy


def test_pictures_in_class_folders_are_recorded(pictures: Toy) -> None:
    """They reach the experts as they do when served."""
    report = pictures.record(Source(path=pictures.folder / "data"))
    assert (report.rows, report.labelled) == (6, True)
    assert [tier.accuracy for tier in report.tiers] == [round(1 / 3, 6), 1.0]


def test_a_file_that_is_no_picture_is_named(pictures: Toy) -> None:
    """By its path in the data set; or it is left out."""
    data = pictures.folder / "data"
    (data / "1" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(RecordsError, match=r"^1/bad\.png: input IMAGE: is not a picture") as caught:
        pictures.record(Source(path=data))
    assert "--skip-bad" in str(caught.value.hint)
    report = pictures.record(Source(path=data, skip_bad=True))
    assert (report.rows, [name for name, _ in report.left_out]) == (6, ["1/bad.png"])


def test_class_names_of_the_data_set_may_lie_in_a_file(pictures: Toy) -> None:
    """Such as WordNet's numbers for folders."""
    data = pictures.folder / "data"
    for number, name in enumerate(("n01", "n02", "n03")):
        (data / str(number)).rename(data / name)
    names = pictures.folder / "wnids.txt"
    names.write_text("n01\nn02\nn03\n")
    with pytest.raises(RecordsError, match="'n01' is no class"):
        pictures.record(Source(path=data))
    report = pictures.record(Source(path=data, labels=names))
    assert report.tiers[1].accuracy == 1.0


def arguments(toy: Toy, *more: str) -> list[str]:
    spec = toy.folder / "cascade.toml"
    data = str(toy.folder / "rows.npz")
    fixed = ["--repository", str(toy.repository), "--artifacts", str(toy.folder / "build")]
    return ["record", str(spec), "--data", data, *fixed, *more]


def test_the_command_writes_records_and_prints_figures(toy: Toy, spec_text: str) -> None:
    """By default beside what was built; JSON alone on stdout for machines."""
    (toy.folder / "cascade.toml").write_text(spec_text)
    done = CliRunner().invoke(main, arguments(toy, "--limit", "30", "--json"))
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert (values["rows"], values["labelled"], values["action"]) == (30, True, "recorded")
    assert len(Records.load(toy.folder / "build" / "toy" / "records.npz")) == 30
    again = CliRunner().invoke(main, arguments(toy, "--limit", "30"))
    assert "toy: 30 rows labelled, kept (nothing changed" in again.stdout


def test_the_command_fails_with_a_next_step(toy: Toy, spec_text: str) -> None:
    """Exit 1 for what is wrong with the data, 2 for wrong usage."""
    (toy.folder / "cascade.toml").write_text(spec_text)
    failed = CliRunner().invoke(main, arguments(toy, "--x", "frames"))
    assert failed.exit_code == 1
    assert "Error: rows.npz: there is no array 'frames', got x, y" in failed.output
    assert "help: --x NAME" in failed.output
    assert CliRunner().invoke(main, arguments(toy, "--out", "records.bin")).exit_code == 2


def test_an_interrupted_command_says_how_to_go_on(
    toy: Toy, spec_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And ends with exit 1."""

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    (toy.folder / "cascade.toml").write_text(spec_text)
    monkeypatch.setattr("cascade_builder.record.record", interrupted)
    done = CliRunner().invoke(main, arguments(toy))
    assert (done.exit_code, "call again to go on" in done.output) == (1, True)


def test_a_report_survives_json(toy: Toy) -> None:
    """What is kept beside the records is what was reported."""
    report = toy.record()
    assert RecordReport.from_json(json.loads(json.dumps(report.as_json()))) == report


def test_errors_of_foreign_code_do_not_leak(toy: Toy) -> None:
    """A repository whose manifest is broken is one of ours too."""
    (toy.repository / "toy_router" / "1" / "manifest.json").write_text("{")
    with pytest.raises(CascadeError, match=r"manifest\.json: cannot be read"):
        toy.record()
