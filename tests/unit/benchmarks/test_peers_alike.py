"""Every peer's own arithmetic, against the cascade restated the dull way."""

import asyncio
import json
import sys
from dataclasses import replace

import numpy as np
import oracle
import pytest
from benchmarks.peers import raw_rows
from benchmarks.peers.client_cascade import CascadingTransport
from benchmarks.peers.climb import Climb
from fake_triton import Request, Server

from cascade_builder import triton_config
from cascade_client.address import Address
from cascade_client.calls import Infer, ModelReady
from cascade_client.rest import HttpReply
from cascade_router import probabilities
from cascade_router.errors import ServerError, TierError

OUTPUTS = ("TIER", "LABEL", "CONFIDENCE")


def expected(policy, logits):
    """Tier, label and confidence of every row, (N,) each."""
    values = json.loads(policy.to_json())
    answers = [oracle.answer(values, logits[:, i]) for i in range(logits.shape[1])]
    return [np.array(column) for column in zip(*answers, strict=True)]


def assert_as_expected(policy, logits, answers):
    tier, label, confidence = expected(policy, logits)

    np.testing.assert_array_equal(answers["TIER"][:, 0], tier)
    np.testing.assert_array_equal(answers["LABEL"][:, 0], label)
    np.testing.assert_allclose(answers["CONFIDENCE"][:, 0], confidence, atol=1e-6)
    np.testing.assert_array_equal(answers["SCORES"].argmax(axis=1), label)
    assert len(set(tier)) == len(logits), "rows of every tier are needed"


@pytest.fixture(params=["sigmoid", "softmax"])
def activation(request, policy, repository):
    """Both activations; the repository's policy says which."""
    changed = replace(policy, activation=request.param)
    (repository / "toy_router" / "1" / "policy.json").write_text(changed.to_json())
    return changed


@pytest.fixture
def cascade(activation, repository):
    from benchmarks.peers import Setup

    return activation, Setup.read(repository, "toy")


def numbered(n):
    """Rows that carry their number, so that a fake expert knows which logits are theirs."""
    return np.repeat(np.arange(n, dtype=np.float32)[:, None], 5, axis=1)


def test_a_climb_leaves_whom_the_gates_do_not_pass(cascade, logits):
    """Tier after tier: NaN escalates, a score on its threshold exits, the last takes all."""
    policy, setup = cascade
    climb = Climb(40, setup.classes, setup.thresholds)
    for tier in logits:
        climb.take(probabilities(tier[climb.left], setup.activation))

    assert not len(climb.left)
    assert_as_expected(policy, logits, climb.answers())


class Experts:
    """A transport behind which the experts answer; remembers how many rows each call had."""

    def __init__(self, logits):
        self.logits, self.calls, self.encoded, self.closed = logits, [], 0, False

    def encode(self, call):
        self.encoded += 1
        return call

    async def send(self, call):
        if isinstance(call, ModelReady):
            return True
        if call.model == "toy_c" and self.logits is None:
            raise TierError("toy_c is down")
        self.calls.append((call.model, len(call.arrays["X"])))
        tier = "abc".index(call.model[-1])
        return {"LOGITS": self.logits[tier][call.arrays["X"][:, 0].astype(int)]}

    async def close(self):
        self.closed = True


def test_the_client_cascade_sends_only_who_is_left(cascade, logits):
    """One call per tier with the rows that escalated, and the answers are the cascade's."""
    policy, setup = cascade
    experts = Experts(logits)
    transport = CascadingTransport(experts, setup)
    answers = asyncio.run(transport.send(Infer("toy", {"X": numbered(40)})))

    assert_as_expected(policy, logits, answers)
    tier = answers["TIER"][:, 0]
    assert experts.calls == [
        ("toy_a", 40),
        ("toy_b", int((tier > 0).sum())),
        ("toy_c", int((tier > 1).sum())),
    ]


def test_a_client_cascade_writes_its_requests_ahead(setup, logits):
    """A single row needs no work while it is sent: each tier's message is ready."""
    experts = Experts(logits)
    transport = CascadingTransport(experts, setup)
    call = transport.encode(Infer("toy", {"X": numbered(1)}, timeout_s=3.0))
    ready = experts.encoded
    asyncio.run(transport.send(call))

    assert ready == experts.encoded == 3
    assert [one.timeout_s for one in call.whole] == [3.0] * 3


def test_other_calls_and_the_end_go_through(setup, logits):
    """It is a transport: questions to the server pass, and closing closes."""
    experts = Experts(logits)
    transport = CascadingTransport(experts, setup)

    assert asyncio.run(transport.send(ModelReady("toy_a")))
    asyncio.run(transport.close())
    assert experts.closed


@pytest.fixture
def triton(monkeypatch, logits):
    """Triton's API, with the experts behind it."""
    server = Server()
    for tier, name in enumerate("abc"):
        server.models[f"toy_{name}"] = lambda inputs, tier=tier: {
            "LOGITS": logits[tier][inputs["X"][:, 0].astype(int)]
        }
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.module())
    return server


def model_of(monkeypatch, peer, setup, name, source):
    """Load a peer's ``model.py`` under the config that it lays out."""
    import importlib

    from google.protobuf import json_format

    peer.lay_out(setup)
    module = f"benchmarks.peers.{source}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    model = importlib.import_module(module).TritonPythonModel()
    monkeypatch.delitem(sys.modules, module)
    text = (setup.repository / name / "config.pbtxt").read_text()
    config = json_format.MessageToDict(triton_config.parse(text), preserving_proto_field_name=True)
    model.initialize({"model_config": json.dumps(config)})
    return model


def joined(responses):
    return {
        name: np.concatenate([response.output(name) for response in responses])
        for name in ("SCORES", "LABEL", "CONFIDENCE", "TIER")
    }


def test_the_tutorials_router_answers_as_the_cascade(cascade, logits, triton, monkeypatch):
    """Request by request, one call per tier each, of one row or several."""
    from benchmarks.peers.on_triton import PerRequestBls

    policy, setup = cascade
    model = model_of(monkeypatch, PerRequestBls(), setup, "toy_per_request_bls", "per_request_bls")
    rows = numbered(40)
    responses = model.execute([Request({"X": part}) for part in (rows[:1], rows[1:30], rows[30:])])

    assert_as_expected(policy, logits, joined(responses))
    assert triton.calls[0] == ("toy_a", 1)


def test_the_selecting_step_answers_as_the_cascade(cascade, logits, triton, monkeypatch):
    """All experts have run; the first that is confident answers, and each request gets its rows."""
    from benchmarks.peers.on_triton import RunAll

    policy, setup = cascade
    model = model_of(monkeypatch, RunAll(), setup, "toy_select_by_gates", "select_by_gates")
    requests = [
        Request({f"LOGITS_{k}": tier[part] for k, tier in enumerate(logits)})
        for part in (slice(0, 1), slice(1, 30), slice(30, 40))
    ]
    responses = model.execute(requests)

    assert [len(response.output("TIER")) for response in responses] == [1, 29, 10]
    assert_as_expected(policy, logits, joined(responses))


def test_raw_rows_come_back_as_they_were_sent(setup):
    """Rows to a body and back; answers to a body and back, dtypes and shapes included."""
    transport = raw_rows.RawRowsTransport(Address("http", "127.0.0.1", 1), setup)
    rows = np.random.default_rng(1).standard_normal((3, 5)).astype(np.float32)
    message = transport.encode(Infer("toy", {"X": rows}, timeout_s=2.0))
    climb = Climb(3, setup.classes, ())
    climb.take(rows)
    answers = climb.answers()
    back = message.decode(HttpReply(200, {}, raw_rows.body_of(answers)))

    np.testing.assert_array_equal(raw_rows.rows_of(message.body, setup), rows)
    assert message.timeout_s == 2.0
    assert back.keys() == answers.keys()
    for name, array in answers.items():
        np.testing.assert_array_equal(back[name], array)
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)


def test_raw_rows_to_nobody_fail_as_one_of_our_errors(setup):
    """The load generator counts our errors; another would end it."""

    async def ask():
        transport = raw_rows.RawRowsTransport(Address("http", "127.0.0.1", 9), setup)
        try:
            await transport.send(Infer("toy", {"X": numbered(1)}))
        finally:
            await transport.close()

    with pytest.raises(ServerError, match="no connection"):
        asyncio.run(ask())
