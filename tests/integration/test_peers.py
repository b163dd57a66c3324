"""Every peer of the benchmarks answers what the cascade answers, or its speed means nothing.

All rows, peers and ours are held against the experts run alone and the cascade restated the dull
way. What a peer brings itself (PyTriton, Ray Serve) is started as the benchmarks start it.
"""

import asyncio
import json
import shutil
from dataclasses import replace

import numpy as np
import oracle
import pytest
from benchmarks.peers import PEERS, Loadable, Setup
from labelled import expert_logits

from cascade_builder.demo import notes
from cascade_client.bench import Load, generate, run_precisely
from cascade_client.transport import connect_load
from cascade_router.errors import ServerError
from cascade_router.serve import Server, free_ports

TOO_CLOSE = 1e-4
"""A score this near to its threshold may fall either way: engines round by batch size."""


@pytest.fixture(scope="module")
def setup(repository, tmp_path_factory):
    """One demo cascade with the models of all peers beside it, served at its default point."""
    folder = tmp_path_factory.mktemp("peers")
    for model in repository.glob("pitch*"):
        shutil.copytree(model, folder / model.name)
    made = Setup.read(folder, "pitch")
    for peer in PEERS:
        peer.lay_out(made)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with Server(repository=folder, ports=free_ports(), log=log) as running:
        yield replace(made, url=running.grpc_url)


@pytest.fixture(scope="module")
def rows():
    """80 frames: the demo's notes in more and more noise, so that each expert answers some."""
    rng = np.random.default_rng(3)
    frames = np.stack(notes.rows())
    noisy = [frames + s * rng.standard_normal(frames.shape) for s in (0.5, 1.0, 1.2, 1.5, 2.0)]
    return list(np.concatenate(noisy).astype(np.float32))


@pytest.fixture(scope="module")
def expected(setup, policies, rows):
    """(tier, label, confidence) of each row, and which rows lie on no threshold's edge."""
    policy = policies["pitch"]
    logits = expert_logits(setup.repository, policy, rows, setup.port.name)
    values = json.loads(policy.to_json())
    answers = [oracle.answer(values, logits[:, i]) for i in range(len(rows))]
    scores = [
        [oracle.answer(values, logits[:, i], None, k, k)[2] for k in range(len(setup.thresholds))]
        for i in range(len(rows))
    ]
    clear = np.abs(np.array(scores) - setup.thresholds).min(axis=1) >= TOO_CLOSE
    return [np.array(column) for column in zip(*answers, strict=True)], clear


async def ask(loadable, rows, sizes):
    """Ask for all rows at once, in requests of these sizes in turn; outputs as (N,) arrays."""
    transport = loadable.connect()
    ends = np.cumsum(np.resize(sizes, len(rows)))
    parts = np.split(np.arange(len(rows)), ends[ends < len(rows)])
    try:
        replies = await asyncio.gather(
            *(transport.send(loadable.candidate.call([rows[i] for i in p], 60)) for p in parts)
        )
    finally:
        await transport.close()
    return {
        name: np.concatenate([reply[name].ravel() for reply in replies])
        for name in ("TIER", "LABEL", "CONFIDENCE")
    }


async def load(loadable, rows):
    transport = loadable.connect()
    try:
        how = Load(concurrency=8, seconds=30.0, requests=32, warmup_s=0.1)
        return await generate(transport, loadable.candidate, rows, how)
    finally:
        await transport.close()


def check(loadable, rows, expected):
    """All at once, one row a request and several; then under the load generator."""
    (tier, label, confidence), clear = expected
    for sizes in ([1], [1, 3, 8]):
        got = run_precisely(ask(loadable, rows, sizes))
        np.testing.assert_array_equal(got["TIER"][clear], tier[clear])
        np.testing.assert_array_equal(got["LABEL"][clear], label[clear])
        np.testing.assert_allclose(got["CONFIDENCE"][clear], confidence[clear], atol=1e-3)
    records = run_precisely(load(loadable, rows))
    told = records.rows.ravel()
    assert records.answered.all()
    np.testing.assert_array_equal(records.tiers.ravel()[clear[told]], tier[told][clear[told]])


def test_the_rows_try_every_tier(expected, setup):
    """Each expert answers some, and hardly any lies on an edge."""
    (tier, _, _), clear = expected

    assert np.bincount(tier, minlength=len(setup.tiers)).min() >= 5
    assert (~clear).sum() <= 2


def test_ours_answers_as_the_oracle(setup, rows, expected):
    """The router, called as the peers are: canonical rows, the default point."""
    candidate = setup.candidate("ours", f"{setup.cascade}_router")

    check(Loadable(candidate=candidate, connect=lambda: connect_load(setup.url)), rows, expected)


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_answers_as_the_oracle(peer, setup, rows, expected):
    """Same rows, same gates, same files: the same tier and label, whatever runs them.

    A peer with a process of its own has ended it when it is closed.
    """
    if reason := peer.missing():
        pytest.skip(reason)
    with peer.open(setup) as loadable:
        check(loadable, rows, expected)
    if peer.alone:
        with pytest.raises(ServerError, match="no connection"):
            run_precisely(ask(loadable, rows[:1], [1]))
