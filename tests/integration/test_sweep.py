"""``cascade-client sweep`` with the real perf_analyzer on the real server."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

from cascade_builder.demo import notes
from cascade_client.cli import main

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sweep")
    np.save(made / "notes.npy", np.stack(notes.rows()))
    return made


@pytest.fixture(scope="module")
def sweep(server, pitch, folder):
    """Sweep the notes; the client says that the cascade is ready."""

    def run(*options):
        words = ["--url", server.grpc_url, "--cascade", "pitch", "sweep", folder / "notes.npy"]
        words += ["--out", folder / "out", "--json", "--no-plots", *options]
        return CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)

    return run


def test_tiers_did_what_the_answers_say(sweep, pitch, folder):
    """Shares by the server's counters are those of the rows' answers; a closed and an open loop."""
    options = ("--concurrency", 4, "--rate", 20, "--seconds", 2, "--baselines")
    result = sweep(*options, "--point", "fast", "--point", "exact")
    levels = json.loads(result.stdout)["levels"]

    assert len(levels) == 8
    for one in levels:
        assert 0 < one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
        assert one["requests"] <= 42 or one["load"] == "concurrency"
        for tier in one["tiers"]:
            assert (tier["mean_batch"] is None) == (tier["reached"] == 0)
            assert tier["reached"] == 0 or tier["mean_batch"] >= 1
            assert tier["reached"] == 0 or tier["compute_ms"] > 0
    for point in ("fast", "exact"):
        tiers = np.array([one.tier for one in pitch.infer(notes.rows(), point=point)])
        closed = next(one for one in levels if one["candidate"] == point)
        for k, tier in enumerate(closed["tiers"]):
            assert tier["reached"] == pytest.approx((tiers >= k).mean(), abs=0.12)
    alone = {one["candidate"]: [t["reached"] for t in one["tiers"]] for one in levels}
    assert alone["largest alone (full)"] == [0, 0, 1]
    assert alone["smallest alone (tiny)"] == [1, 0, 0]
    with (folder / "out" / "sweep.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 8


def test_the_rate_that_is_found_keeps_the_target(sweep):
    """A loose one; what was measured on the way is not measured again, but for what failed."""
    options = ("--point", "fast", "--seconds", 0.5, "--tolerance", 0.5, "--target-p99-ms", 1000)
    first, again = (json.loads(sweep(*options).stdout) for _ in range(2))
    (found,) = first["found"]

    assert found["rate"] > 5
    assert found["level"]["p99_ms"] <= 1000
    kept = [one for one in first["levels"] if one["state"] != "failed"]
    assert [one for one in again["levels"] if one in kept] == kept


def test_a_target_that_cannot_be_kept_is_refused(sweep):
    """No answer comes within 10 microseconds."""
    result = sweep("--point", "fast", "--seconds", 0.5, "--target-p99-ms", 0.01)

    assert result.exit_code == 1
    assert "no rate keeps p99 <= 0.01 ms: fast: best p99" in result.stderr
