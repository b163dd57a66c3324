"""A cascade on top of a model that the server serves already: nothing of it is exported."""

import numpy as np
import pytest
from fleet import lay_out
from onnx_files import linear, save

from cascade_builder.build import build
from cascade_builder.record import Source, record
from cascade_builder.records import Records
from cascade_builder.spec import Spec
from cascade_builder.verification import verify
from cascade_client import CascadeClient
from cascade_router.errors import BuildError
from cascade_router.serve import Server, free_ports

RNG = np.random.default_rng(4)
SMALL, LARGE = (RNG.standard_normal((8, 3)).astype(np.float32) for _ in range(2))
ROWS = RNG.standard_normal((40, 8)).astype(np.float32)

SPEC = """
[cascade]
name = "top"
classes = 3
max_batch = 8

[input]
kind = "tensor"
name = "FRAME"
dtype = "FP32"
shape = [8]

[rows]
folder = "rows"

[[expert]]
name = "small"
onnx = "small.onnx"

[[expert]]
name = "large"
served = "fleet"
output = "scores"
server = "SERVER"

[[point]]
name = "half"
threshold = 0.6
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The cascade built before and after the server started, and the running server."""
    folder = tmp_path_factory.mktemp("top")
    ports = free_ports()
    repository = folder / "repository"
    lay_out(repository, LARGE)
    save(linear(weights=SMALL), folder / "small.onnx")
    (folder / "rows").mkdir()
    for i, row in enumerate(ROWS):
        np.save(folder / "rows" / f"{i:02}.npy", row)
    np.savez(folder / "rows.npz", x=ROWS)
    path = folder / "cascade.toml"
    path.write_text(SPEC.replace("SERVER", f"127.0.0.1:{ports.grpc}"))

    def built():
        return build(Spec.read(path), repository, artifacts_folder=folder / "build")

    before = built()
    log = folder / "server.log"
    with (
        Server(repository=repository, ports=ports, log=log) as server,
        CascadeClient(server.grpc_url, "top") as client,
    ):
        client.wait_ready(60)
        yield folder, before, built, client


def scores(rows, weights):
    exp = np.exp((rows @ weights).astype(np.float64))
    return exp / exp.sum(axis=1, keepdims=True)


def test_rows_that_escalate_are_answered_by_the_served_model(made):
    """Under its own names of input and output, which the cascade's expert translates."""
    _, _, _, client = made
    small, large = scores(ROWS, SMALL), scores(ROWS, LARGE)
    exits = small.max(axis=1) >= 0.6
    answers = client.infer(list(ROWS))
    assert [answer.tier for answer in answers] == np.where(exits, 0, 1).tolist()
    expected = np.where(exits, small.argmax(axis=1), large.argmax(axis=1))
    assert [answer.label for answer in answers] == expected.tolist()
    assert 0 < exits.sum() < len(ROWS)


def test_it_is_checked_once_its_server_answers(made):
    """Without a server the build says what it could not check; with one it checks and times it."""
    _, before, built, _ = made
    assert before.experts[1].action == "checked"
    assert "no server answers" in before.experts[1].unverified
    assert before.experts[1].cost_ms == {}

    after = built()
    assert (after.experts[1].action, after.experts[1].unverified) == ("checked", None)
    assert after.experts[1].reason == "its server answers now"
    assert set(after.experts[1].cost_ms) == {1, 8}
    assert after.policy == "kept"
    assert built().nothing_done


def test_it_is_recorded_through_the_server(made):
    """Records hold what the served model answers, under the digest that a policy will name."""
    folder, before, _, _ = made
    spec = Spec.read(folder / "cascade.toml")
    source = Source(path=folder / "rows.npz")
    record(spec, source, folder / "repository", out=folder / "records.npz")
    records = Records.load(folder / "records.npz")
    np.testing.assert_allclose(records.tiers[1].logits, ROWS @ LARGE, rtol=1e-5)
    assert records.tiers[1].digest == before.experts[1].digest


@pytest.mark.parametrize("own", [False, True])
def test_it_is_verified_through_the_cascade(made, own):
    """Called as the cascade's expert it answers as under its own name, on a server of ours too."""
    folder, _, _, _ = made
    url = None if own else Spec.read(folder / "cascade.toml").experts[1].source.server
    report = verify(
        Spec.read(folder / "cascade.toml"),
        folder / "repository",
        artifacts_folder=folder / "build",
        url=url,
    )
    steps = [(step.before, step.after, step.outcome) for step in report.experts[1].steps]
    assert steps == [
        ("model fleet, row by row", "in batches", "same"),
        ("model fleet", "model top_large", "same"),
    ]
    assert report.verified


def test_another_model_in_its_place_puts_the_policy_aside(made):
    """New weights, new digest: recording refuses until it is built again, and building replaces."""
    folder, before, built, _ = made
    lay_out(folder / "repository", LARGE + 1)
    spec = Spec.read(folder / "cascade.toml")
    with pytest.raises(BuildError, match="served model 'fleet' is sha256:"):
        record(spec, Source(path=folder / "rows.npz"), folder / "repository", out=folder / "r.npz")
    after = built()
    assert after.experts[1].digest != before.experts[1].digest
    assert (after.policy, after.policy_reason) == (
        "replaced",
        "the old one was made for another 'large'",
    )
