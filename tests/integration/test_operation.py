"""Metrics, failing experts, unloading: the running server as its operator sees it."""

import re
import threading
import time
import urllib.request

import numpy as np
import pytest

from cascade_builder.demo import notes
from cascade_client import CascadeClient
from cascade_router.errors import BusyError, CascadeError
from cascade_router.serve import Server, free_ports


@pytest.fixture(scope="module")
def own_server(repository, tmp_path_factory):
    """A server of its own: these tests unload models."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    with Server(repository=repository, ports=free_ports(), log=log) as running:
        yield running


@pytest.fixture(scope="module")
def client(own_server):
    with CascadeClient(own_server.grpc_url, "pitch") as made:
        made.wait_ready(60)
        yield made


@pytest.fixture(scope="module")
def control(own_server):
    import tritonclient.grpc as grpc

    made = grpc.InferenceServerClient(own_server.grpc_url)
    yield made
    made.close()


def page(server):
    with urllib.request.urlopen(server.metrics_url) as opened:
        return opened.read().decode()


def exits(server):
    lines = re.findall(r"cascade_exits_total\{([^}]*)\} (\d+)", page(server))
    return {tuple(sorted(re.findall(r'(\w+)="([^"]*)"', labels))): int(n) for labels, n in lines}


def test_exits_are_counted_per_tier_and_point(own_server, client):
    """The Prometheus counters rise by exactly the rows answered, where they were answered."""
    before = exits(own_server)
    answers = client.infer(notes.rows() * 5, point="fast")

    expected = {name: 0 for name in ("tiny", "medium", "full")}
    for answer in answers:
        expected[answer.tier_name] += 1
    deadline = time.monotonic() + 10
    while True:
        rise = {name: 0 for name in expected}
        for key, n in exits(own_server).items():
            labels = dict(key)
            if labels["cascade"] == "pitch" and labels["point"] == "fast":
                rise[labels["tier"]] += n - before.get(key, 0)
        if rise == expected or time.monotonic() > deadline:
            break
        threading.Event().wait(0.1)  # counters are handed over once a second

    assert rise == expected


def test_a_deadline_bounds_what_is_started(client):
    """Time enough changes nothing; too little for any tier is refused with what it would take."""
    plain = client.infer(notes.rows(), point="exact")
    patient = client.infer(notes.rows(), point="exact", deadline_ms=600_000)

    assert [(a.label, a.tier) for a in patient] == [(a.label, a.tier) for a in plain]
    with pytest.raises(BusyError, match="cascade_deadline_ms: tier 0 is expected to take"):
        client.infer(notes.rows()[:1], deadline_ms=1e-6)


def test_scores_escalations_and_what_the_largest_would_cost_are_on_the_page(own_server, client):
    """Each family has its labels, and buckets grow with their bounds."""
    client.infer(notes.rows(), point="fast")
    deadline = time.monotonic() + 10
    while 'cascade_score_bucket{cascade="pitch",le="+Inf"' not in (text := page(own_server)):
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)

    pattern = r'cascade_score_bucket\{cascade="pitch",le="([^"]+)",tier="tiny"\} (\d+)'
    found = {float(le): int(n) for le, n in re.findall(pattern, text)}
    ordered = [found[le] for le in sorted(found)]
    assert ordered == sorted(ordered)
    assert ordered[-1] > 0


def test_an_expert_that_is_gone_fails_only_rows_that_need_it(client, control):
    """Rows that exit below are answered; the others learn which tier failed; then all is well."""
    sure = [r for r, a in zip(notes.rows(), client.infer(notes.rows()), strict=True) if a.tier == 0]
    assert sure
    control.unload_model("pitch_medium")
    try:
        assert {a.tier for a in client.infer(sure, rows_per_request=1)} == {0}
        with pytest.raises(CascadeError, match=r"tier 'medium' \(model pitch_medium\) failed"):
            client.infer(sure[:1], min_tier=1, max_tier=1)
    finally:
        control.load_model("pitch_medium")
    client.wait_ready(60)

    assert client.infer(sure[:1], min_tier=1, max_tier=1)[0].tier == 1


def test_rows_on_their_way_survive_an_unload_of_the_router(client, control):
    """Requests taken in before the router is unloaded are answered; none hangs."""
    rows = [np.asarray(r) for r in notes.rows()]
    outcomes = []

    def ask(row):
        try:
            outcomes.append(client.infer([row], min_tier=2)[0].tier)
        except CascadeError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=ask, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    control.unload_model("pitch_router")
    for thread in threads:
        thread.join(30)
    control.load_model("pitch_router")
    client.wait_ready(60)

    assert len(outcomes) == len(rows)
    refused = [o for o in outcomes if o != 2]
    assert all("pitch" in text for text in refused)
    assert client.infer(rows[:1])[0].label >= 0
