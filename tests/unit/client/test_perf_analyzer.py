"""perf_analyzer as a program: its flags, its files, its failures."""

import base64
import json
import math
from collections import Counter

import fake_perf_analyzer
import numpy as np
import pytest

from cascade_client.calls import Port, as_bytes
from cascade_client.perf_analyzer import PerfAnalyzer
from cascade_client.perf_data import entry, write_gaps, write_rows
from cascade_client.tensors import array_from_raw
from cascade_router.errors import ServerError

FRAME = Port("FRAME", "FP32", (3,))
ROWS = list(np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.fixture
def perf(tmp_path):
    return PerfAnalyzer(fake_perf_analyzer.install(tmp_path))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.json"
    write_rows(path, FRAME, ROWS, most=10, seed=0)
    return path


def test_a_closed_loop_is_measured(perf, data, tmp_path):
    """Figures from its CSV, spreads from what it prints, parameters by their type."""
    parameters = {"cascade_point": "fast", "cascade_min_tier": 1, "cascade_flag": True}
    figures = perf.measure("pitch", "here:1", data, concurrency=2, parameters=parameters)

    assert (figures.rows_per_s, figures.p50_ms, figures.p99_ms) == (100.0, 20.0, 60.0)
    assert (figures.rows_spread, figures.latency_spread) == (0.5, 0.2)
    assert figures.requests == 720
    (flags,) = fake_perf_analyzer.calls(tmp_path)
    assert flags["-m"] + flags["-u"] + flags["-i"] == ["pitch", "here:1", "grpc"]
    assert flags["--concurrency-range"] == ["2"]
    assert flags["--request-parameter"] == [
        "cascade_point:fast:string",
        "cascade_min_tier:1:int",
        "cascade_flag:true:bool",
    ]


def test_an_open_loop_sends_at_random_moments(perf, data, tmp_path):
    """By a file of gaps and asynchronously: its threads must not wait for answers."""
    figures = perf.measure("pitch", "here:1", data, rate=100, steady_percent=None)

    assert figures.rows_per_s == pytest.approx(100)
    (flags,) = fake_perf_analyzer.calls(tmp_path)
    assert flags["--async"] == []
    assert "--concurrency-range" not in flags


def test_what_the_server_refused_is_told(perf, data):
    """Its own words, not the thread's."""
    with pytest.raises(ServerError, match="pitch at 2000 requests/s: queue full, 256 rows may"):
        perf.measure("pitch", "here:1", data, rate=2000)


def test_a_window_without_a_request_is_told(perf, data):
    """Without the warnings before it."""
    with pytest.raises(ServerError, match=r"at 0\.5 requests/s: No valid requests recorded"):
        perf.measure("pitch", "here:1", data, rate=0.5)


def test_levels_and_parameters_that_it_cannot_send_are_wrong(perf, data):
    """Before it is started."""
    for load in ({}, {"concurrency": 1, "rate": 1.0}):
        with pytest.raises(ValueError, match="either concurrency or rate"):
            perf.measure("pitch", "here:1", data, **load)
    with pytest.raises(ValueError, match=r"share=0\.5"):
        perf.measure("pitch", "here:1", data, concurrency=1, parameters={"share": 0.5})


def test_a_program_that_is_none_is_told(tmp_path):
    """One that cannot be started, and one that says something else."""
    broken = tmp_path / "perf_analyzer"
    broken.write_text("#!/bin/sh\necho error while loading shared libraries: libcudart.so.12\n")
    with pytest.raises(ServerError, match="cannot be started"):
        PerfAnalyzer(broken).version()
    broken.chmod(0o755)
    with pytest.raises(ServerError, match="does not run here") as error:
        PerfAnalyzer(broken).version()

    assert "libcudart" in error.value.hint


def test_the_version_is_read(perf):
    """Without the words around it."""
    assert perf.version() == "2.51.0"


def test_numbers_and_pictures_are_written_as_triton_reads_them():
    """Base 64 of the bytes on the wire: a picture's length comes before it."""
    for port, row in (
        (FRAME, ROWS[1]),
        (Port("IMAGE", "BYTES", (1,)), as_bytes([b"\xff\xd8picture"])),
    ):
        written = entry(port, row)[port.name]
        raw = base64.b64decode(written["content"]["b64"])

        np.testing.assert_array_equal(array_from_raw(raw, port.datatype, written["shape"]), row)


def test_rows_are_written_in_a_seeded_order(tmp_path):
    """All of them, or as many as are wanted; equal files have equal digests."""

    def written(most, seed):
        n, digest = write_rows(tmp_path / "x.json", FRAME, ROWS, most=most, seed=seed)
        entries = json.loads((tmp_path / "x.json").read_text())["data"]
        times = Counter(one["FRAME"]["content"]["b64"] for one in entries)
        assert len(times) == n
        return digest, times

    every = {entry(FRAME, row)["FRAME"]["content"]["b64"] for row in ROWS}
    assert set(written(10, 0)[1]) == every
    assert len(written(3, 0)[1]) == 3
    assert written(10, 0) == written(10, 0)
    assert written(10, 0)[0] != written(10, 1)[0]


@pytest.mark.parametrize("n_rows", [1, 4, 16, 1008])
def test_every_thread_of_perf_analyzer_comes_by_every_row(tmp_path, n_rows):
    """Of N threads each takes every Nth entry; a hard row must not be one slow thread's alone."""
    rows = [np.full(3, i, dtype=np.float32) for i in range(n_rows)]
    write_rows(tmp_path / "x.json", FRAME, rows, most=n_rows, seed=0)
    entries = [
        one["FRAME"]["content"]["b64"]
        for one in json.loads((tmp_path / "x.json").read_text())["data"]
    ]

    times = Counter(entries)
    assert max(times.values()) - min(times.values()) <= 1
    assert len(entries) >= 1000
    for n_threads in (2, 4, 7, 64):
        for thread in range(n_threads):
            seen = {(thread + k * n_threads) % len(entries) for k in range(len(entries))}
            assert len(seen) == len(entries)


def test_large_rows_are_not_written_again_and_again(tmp_path):
    """A few big pictures make no file of gigabytes."""
    rows = [as_bytes([bytes(9 * 2**20)]) for _ in range(2)]
    write_rows(tmp_path / "x.json", Port("IMAGE", "BYTES", (1,)), rows, most=9, seed=0)

    assert (tmp_path / "x.json").stat().st_size < 80 * 2**20


@pytest.mark.parametrize(("rate", "seconds", "n"), [(50, 2, 100), (300, 5, 1500), (0.5, 1, 1)])
def test_the_moments_of_a_rate_add_up(tmp_path, rate, seconds, n):
    """As many as the rate says, in just that time, no two seeds alike, spread like a Poisson's."""
    write_gaps(tmp_path / "a", rate, seconds, seed=0)
    write_gaps(tmp_path / "b", rate, seconds, seed=1)
    gaps = [int(line) for line in (tmp_path / "a").read_text().splitlines()]

    assert len(gaps) == n
    assert math.isclose(sum(gaps), 1e6 * n / rate, abs_tol=1)
    if n > 1:
        assert (tmp_path / "a").read_text() != (tmp_path / "b").read_text()
        assert 0.8 < np.std(gaps) / np.mean(gaps) < 1.2
