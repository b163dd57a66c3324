"""Experts that die or hang under the real server, and floods: what clients are told."""

import asyncio
import dataclasses
import os
import re
import signal
import threading
import time
import urllib.request
from collections import Counter

import pytest
from kept_builds import build_kept

from cascade_builder.demo import notes
from cascade_builder.spec import Spec
from cascade_client import AsyncCascadeClient, CascadeClient
from cascade_router.errors import BusyError, CascadeError
from cascade_router.serve import Server, free_ports
from cascade_router.supervision.processes import stubs_of

BOUNDS = {"max_waiting_requests": 8, "max_waiting_rows": 64}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One of its own, with short queues: these tests kill its processes."""
    folder = tmp_path_factory.mktemp("failing")
    spec = Spec.find("pitch")
    spec = dataclasses.replace(spec, router=dataclasses.replace(spec.router, **BOUNDS))
    build_kept(spec, folder / "models")
    log = folder / "server.log"
    with Server(repository=folder / "models", ports=free_ports(), log=log) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with CascadeClient(server.grpc_url, "pitch") as made:
        made.wait_ready(60)
        yield made


@pytest.fixture(scope="module")
def control(server):
    import tritonclient.grpc as grpc

    made = grpc.InferenceServerClient(server.grpc_url)
    yield made
    made.close()


def stop_stubs(server, model, signal_):
    stubs = [stub for stub in stubs_of(server.pid) if stub.model == model]
    assert stubs
    for stub in stubs:
        os.kill(stub.process.pid, signal_)


def revive(control, client, model):
    control.unload_model(model)
    control.load_model(model)
    client.wait_ready(60)


def said(answers):
    return [(a.label, a.tier, a.degraded) for a in answers]


def until(look, timeout_s=30):
    """Wait for what comes about by itself."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)
    return found


def metric(server, name, tier):
    with urllib.request.urlopen(server.metrics_url) as opened:
        page = opened.read().decode()
    found = re.findall(rf'^{name}\{{([^}}]*tier="{tier}"[^}}]*)\}} (\d+)', page, re.MULTILINE)
    return sum(int(n) for _, n in found)


def test_rows_of_a_killed_expert_are_answered_by_the_best_so_far(server, client, control):
    """The largest is dead: whoever needs it gets the answer of the tier before, and is told so.

    When it is back, it is taken back.
    """
    full = client.infer(notes.rows(), point="exact")
    lower = client.infer(notes.rows(), point="exact", max_tier=1)
    hard = [k for k, answer in enumerate(full) if answer.tier == 2]
    assert hard
    stop_stubs(server, "pitch_full", signal.SIGKILL)

    degraded = client.infer(notes.rows(), point="exact")
    with pytest.raises(CascadeError, match=r"tier 'full' \(model pitch_full\) failed"):
        client.infer(notes.rows()[:1], min_tier=2)

    expected = said(full)
    for k in hard:
        expected[k] = (lower[k].label, 1, "tier")
    assert said(degraded) == expected
    assert until(lambda: metric(server, "cascade_tier_failures_total", "full"))
    assert metric(server, "cascade_tier_open", "full") >= 1
    revive(control, client, "pitch_full")
    assert until(lambda: said(client.infer(notes.rows(), point="exact")) == said(full))
    assert until(lambda: metric(server, "cascade_tier_open", "full") == 0)


def test_rows_of_a_killed_middle_expert_go_on_to_the_next(server, client, control):
    """They are answered by the largest, which is told."""
    full = client.infer(notes.rows(), point="exact")
    largest = client.infer(notes.rows(), min_tier=2)
    stop_stubs(server, "pitch_medium", signal.SIGKILL)

    degraded = client.infer(notes.rows(), point="exact")
    revive(control, client, "pitch_medium")

    assert said(degraded) == [
        said([mine])[0] if mine.tier == 0 else (best.label, 2, "tier")
        for mine, best in zip(full, largest, strict=True)
    ]


def test_a_deadline_is_kept_while_an_expert_is_stopped(server, client, control):
    """The router does not wait with it: the best so far at the deadline, and easy rows as ever."""
    full = client.infer(notes.rows(), point="exact")
    lower = client.infer(notes.rows(), point="exact", max_tier=1)
    hard = [k for k, answer in enumerate(full) if answer.tier == 2]
    stop_stubs(server, "pitch_full", signal.SIGSTOP)
    try:
        rows = [notes.rows()[k] for k in hard]
        hurried = client.infer(rows, point="exact", deadline_ms=500, timeout_s=20)
        with pytest.raises(BusyError, match="cascade_deadline_ms: over before tier 2"):
            client.infer(rows[:1], min_tier=2, deadline_ms=200, timeout_s=20)
        easy = client.infer(notes.rows(), point="exact", max_tier=1)
    finally:
        # Never continued: by then Triton has taken their memory back, and would crash.
        stop_stubs(server, "pitch_full", signal.SIGKILL)
    revive(control, client, "pitch_full")

    assert said(hurried) == [(lower[k].label, 1, "deadline") for k in hard]
    assert said(easy) == said(lower)
    assert until(lambda: said(client.infer(notes.rows(), point="exact")) == said(full))


def test_a_flood_is_refused_at_once_and_leaves_nothing_behind(server, client):
    """More requests at once than may wait: each is answered or refused, then all is as before."""
    before = said(client.infer(notes.rows(), point="exact"))
    row = notes.rows()[0]

    async def flood():
        async def ask(asker):
            try:
                answer = (await asker.infer([row], point="fast"))[0]
            except BusyError:
                return "refused"
            return answer.tier

        async with AsyncCascadeClient(server.grpc_url, "pitch", timeout_s=60) as asker:
            await asker.infer([row])
            return Counter(await asyncio.gather(*(ask(asker) for _ in range(600))))

    outcomes = asyncio.run(flood())

    assert outcomes.total() == 600
    assert outcomes["refused"] > 0
    assert outcomes[0] > 0
    assert said(client.infer(notes.rows(), point="exact")) == before
