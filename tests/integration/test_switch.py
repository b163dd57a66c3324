"""Switching a running cascade: all instances follow, none fails, a bad policy never serves."""

import json
import shutil
import threading
import time

import pytest

from cascade_builder.demo import notes
from cascade_client import CascadeClient
from cascade_router import Policy
from cascade_router.errors import CascadeError, RequestError
from cascade_router.serve import Server, free_ports


@pytest.fixture(scope="module")
def models(repository, tmp_path_factory):
    """A repository of its own: these tests change its policy."""
    folder = tmp_path_factory.mktemp("switch")
    for model in repository.glob("pitch*"):
        shutil.copytree(model, folder / model.name)
    return folder


@pytest.fixture(scope="module")
def running(models, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    with Server(repository=models, ports=free_ports(), log=log) as server:
        yield server


@pytest.fixture(scope="module")
def client(running):
    with CascadeClient(running.grpc_url, "pitch") as made:
        made.wait_ready(60)
        yield made


@pytest.fixture(scope="module")
def unsure(client):
    """A note that exits at tier 0 at the point fast and goes up at the point exact."""
    rows = notes.rows()
    low, high = (client.infer(rows, point=point) for point in ("fast", "exact"))
    return next(r for r, a, b in zip(rows, low, high, strict=True) if a.tier == 0 < b.tier)


def tier_soon(client, row, expected, within_s=1.5):
    """Ask until eight answers in a row (more than there are instances) come from ``expected``."""
    deadline = time.monotonic() + within_s
    streak = 0
    while streak < 8:
        streak = streak + 1 if (client.infer([row])[0].tier > 0) == expected else 0
        assert time.monotonic() < deadline, "the switch did not reach every instance in time"


def test_a_switch_under_load_reaches_every_instance_and_fails_nothing(client, running, unsure):
    """Twenty switches while four clients ask without pause: no error, each followed soon."""
    errors, stop = [], threading.Event()

    def load():
        with CascadeClient(running.grpc_url, "pitch") as own:
            while not stop.is_set():
                try:
                    own.infer(notes.rows()[:2])
                except CascadeError as error:
                    errors.append(str(error))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for i in range(20):
            point = ("exact", "fast")[i % 2]
            change = client.set_point(point, who="test")
            assert (change["point"], change["who"]) == (point, "test")
            tier_soon(client, unsure, point == "exact", within_s=4.0)
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert errors == []
    changes = client.policy().history
    assert [c["point"] for c in changes[-20:]] == ["exact", "fast"] * 10


def test_unknown_points_are_refused_and_change_nothing(client):
    """The caller learns which points there are."""
    before = client.policy().default_point

    with pytest.raises(RequestError, match="'turbo' is unknown; this policy has fast, balanced"):
        client.set_point("turbo")

    assert client.policy().default_point == before


def test_a_policy_file_that_cannot_be_used_never_serves(client, models, unsure):
    """Truncated, garbage and foreign files are refused and reported; a good one is taken."""
    path = models / "pitch_router" / "1" / "policy.json"
    good = path.read_text()
    other = json.loads(good)
    other["tiers"][0]["digest"] = "sha256:another"
    client.set_point("exact", who="test")
    tier_soon(client, unsure, expected=True)

    for bad in (good[:100], "garbage", json.dumps(other)):
        path.with_suffix(".new").write_text(bad)
        path.with_suffix(".new").replace(path)
        deadline = time.monotonic() + 5
        while client.policy().refused is None and time.monotonic() < deadline:
            time.sleep(0.05)

        assert client.policy().refused is not None
        assert client.infer([unsure])[0].tier > 0

    path.with_suffix(".new").write_text(good)
    path.with_suffix(".new").replace(path)
    tier_soon(client, unsure, expected=True)
    assert client.policy().refused is None


def test_a_new_policy_is_taken_while_serving(client, models, unsure):
    """Replacing policy.json changes what the points mean, without a reload."""
    path = models / "pitch_router" / "1" / "policy.json"
    values = json.loads(path.read_text())
    exact = next(p for p in values["points"] if p["name"] == "exact")
    exact["gates"][0]["threshold"] = 0.0
    policy = Policy.from_json(json.dumps(values))

    path.with_suffix(".new").write_text(policy.to_json())
    path.with_suffix(".new").replace(path)

    tier_soon(client, unsure, expected=False)


def test_the_switch_survives_a_restart(client, models, tmp_path):
    """A second server on the same files starts with the point that was set on the first."""
    client.set_point("balanced", who="test")

    with (
        Server(repository=models, ports=free_ports(), log=tmp_path / "log") as second,
        CascadeClient(second.grpc_url, "pitch") as other,
    ):
        other.wait_ready(60)
        assert other.policy().default_point == "balanced"
        assert other.policy().history[-1]["who"] == "test"
