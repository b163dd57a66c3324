"""Record, calibrate, serve: replay, the router and the dull oracle say the same on real rows."""

import json
import shutil

import numpy as np
import oracle
import pytest
from benchmarks.prepare_pitch import prepare
from labelled import DATA, needs

from cascade_builder.calibrate import calibrate
from cascade_builder.record import Source, record
from cascade_builder.records import Records
from cascade_builder.spec import Spec
from cascade_builder.wish import Goal, Wish
from cascade_client import CascadeClient
from cascade_router import Walk
from cascade_router.serve import Server, free_ports

pytestmark = [needs("imagenet_val1300"), needs("pitch")]

N_ROWS = 240
WISH = Wish(
    goals={"careful": Goal(drop=0.05), "fast": Goal(efficiency=0.8)},
    default="exact",
)


@pytest.fixture(scope="module")
def models(repository, tmp_path_factory):
    """A repository of its own: its policies are replaced."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(repository, folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Where the rows of each cascade come from."""
    frames = tmp_path_factory.mktemp("frames") / "frames.npz"
    prepare(DATA / "pitch" / "timgm_frames3000.npz", frames)
    photos = DATA / "imagenet_val1300" / "labels.csv"
    return {
        "imagenet": Source(path=photos, limit=N_ROWS),
        "pitch": Source(path=frames, limit=N_ROWS),
    }


@pytest.fixture(scope="module")
def calibrated(models, sources, tmp_path_factory):
    """Both cascades recorded and calibrated by the same calls: records, policy and rows of each."""
    out = tmp_path_factory.mktemp("records")
    made = {}
    for name, source in sources.items():
        spec = Spec.find(name)
        record(spec, source, models, out=out / f"{name}.npz")
        records = Records.load(out / f"{name}.npz")
        policy = calibrate(records, WISH).policy
        (models / f"{name}_router" / "1" / "policy.json").write_text(policy.to_json())
        data = source.open(spec)
        made[name] = (records, policy, [data.row(i) for i in source.wanted(len(data))])
    return made


@pytest.fixture(scope="module")
def running(models, calibrated, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "server.log"
    with Server(repository=models, ports=free_ports(), log=log) as server:
        yield server


@pytest.mark.parametrize("name", ["imagenet", "pitch"])
def test_replay_router_and_oracle_agree(name, running, calibrated):
    """Every recorded row at every calibrated point, asked in batches of mixed sizes."""
    records, policy, rows = calibrated[name]
    logits = [np.asarray(tier.logits, dtype=np.float32) for tier in records.tiers]
    values = json.loads(policy.to_json())
    assert len(policy.points) > 1

    with CascadeClient(running.grpc_url, name) as client:
        client.wait_ready(60)
        for i, point in enumerate(policy.points):
            walk = Walk(policy, point=np.full(len(rows), i))
            while (step := walk.next()) is not None:
                walk.settle(step.tier, step.rows, logits[step.tier][step.rows])
            served = []
            for size, start in batches(len(rows)):
                chunk = rows[start : start + size]
                served += client.infer(chunk, point=point.name, rows_per_request=size)
            dull = [
                oracle.answer(values, [tier[n] for tier in logits], point.name)
                for n in range(len(rows))
            ]

            assert [(t, label) for t, label, _ in dull] == [
                (t, label) for t, label in zip(walk.exit_tier, walk.label, strict=True)
            ]
            differ = [
                n
                for n, a in enumerate(served)
                if (a.tier, a.label) != (walk.exit_tier[n], walk.label[n])
            ]
            # Engines round by batch size; thresholds lie between scores, so hardly a row can fall.
            assert len(differ) <= 1, (point.name, differ)


@pytest.mark.parametrize(("efficiency", "place"), [(0.0, -1), (1.0, 0)])
def test_efficiency_asks_for_a_place_on_the_certified_ladder(
    running, calibrated, efficiency, place
):
    """0 answers as the safest certified point does, 1 as the cheapest."""
    _, policy, rows = calibrated["pitch"]
    point = policy.points[policy.certified[place]].name

    with CascadeClient(running.grpc_url, "pitch") as client:
        asked = client.infer(rows[:40], efficiency=efficiency)
        named = client.infer(rows[:40], point=point)

    assert [(a.tier, a.label) for a in asked] == [(a.tier, a.label) for a in named]


def batches(n, seed=3):
    """Cut n rows into batches of 1 to 16."""
    rng, start = np.random.default_rng(seed), 0
    while start < n:
        size = int(rng.integers(1, 17))
        yield size, start
        start += size
