"""`cascade-serve` as a process: what dies comes back, what is told is true, nothing is left."""

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from supervised import SERVE, Served

from cascade_builder.demo import notes
from cascade_client import CascadeClient
from cascade_router.errors import CascadeError
from cascade_router.serve import Server, free_ports
from cascade_router.supervision.processes import Process, stubs_of

MEMORY = Path("/dev/shm")
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def served(folder, only_pitch):
    with Served(folder, only_pitch) as made:
        yield made


@pytest.fixture
def own_pitch(only_pitch, tmp_path):
    """A repository that nobody serves."""
    return shutil.copytree(only_pitch, tmp_path / "models")


@pytest.fixture(scope="module")
def rows():
    return notes.rows()[:4]


@pytest.fixture(scope="module")
def expected(served, rows):
    with CascadeClient(served.url, "pitch") as client:
        return [[a.label for a in client.infer(rows, min_tier=k, max_tier=k)] for k in range(3)]


def labels(served, rows):
    with CascadeClient(served.url, "pitch", timeout_s=10) as client:
        return [[a.label for a in client.infer(rows, min_tier=k, max_tier=k)] for k in range(3)]


@pytest.mark.parametrize("most", [1, 9])
@pytest.mark.parametrize("model", ["pitch_medium", "pitch_full", "pitch_router"])
def test_a_killed_process_is_revived(served, rows, expected, model, most):
    """SIGKILL of one or all of a model: noticed, loaded anew, the same answers, nothing left."""
    revivals = served.state()["models"][model]["revivals"]
    served.kill_stubs(model, most)

    served.until(lambda: not served.state()["ready"], PATIENCE_S)
    served.until(lambda: served.state()["ready"], PATIENCE_S)

    assert served.state()["models"][model]["revivals"] == revivals + 1
    assert labels(served, rows) == expected
    regions = {region.name for region in MEMORY.glob(f"{served.mark}*")}
    assert regions == {one.region for one in stubs_of(served.server) if not one.dead}


def test_a_killed_server_is_started_anew(served, rows, expected):
    """SIGKILL of tritonserver: the next one serves the same; regions of the first are gone."""
    first, mark = served.server, served.mark
    foreign = MEMORY / "cascade_serve_0000000000000000_foreign"
    foreign.touch()
    os.kill(first, signal.SIGKILL)
    try:
        served.until(lambda: not served.state()["ready"], PATIENCE_S)
        served.until(lambda: served.state()["ready"], PATIENCE_S)

        assert foreign.exists()
    finally:
        foreign.unlink()
    assert served.server != first
    assert list(MEMORY.glob(f"{mark}*")) == []
    assert served.state()["restarts"] == 1
    assert labels(served, rows) == expected


def test_stopped_processes_are_replaced(served, rows, expected):
    """A tier's processes stopped: ended before they wake, loaded anew; the server survives it."""
    server, before = served.server, served.state()["models"]["pitch_medium"]["revivals"]
    stubs = [one.process for one in stubs_of(served.server) if one.model == "pitch_medium"]
    for one in stubs:
        one.send(signal.SIGSTOP)
    try:
        served.until(lambda: not served.state()["ready"], PATIENCE_S)
        served.until(lambda: served.state()["ready"], PATIENCE_S)
    finally:
        for one in stubs:
            one.send(signal.SIGCONT)

    assert not any(one.lives() for one in stubs)
    assert served.state()["models"]["pitch_medium"]["revivals"] == before + 1
    assert served.server == server
    assert labels(served, rows) == expected


def test_a_second_one_on_the_same_repository_is_refused(served, folder):
    """From whatever session: it names the process that has it, and disturbs nobody."""
    ports = [f"--{n}-port={getattr(free_ports(), n)}" for n in ("http", "grpc", "metrics")]
    line = [SERVE, f"--model-repository={served.repository}", *ports, "--health-port=0"]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(folder)}

    done = subprocess.run(
        line, capture_output=True, text=True, env=environment, timeout=60, check=False
    )

    assert done.returncode == 1
    assert f"is served already by process {served.process.pid}" in done.stderr
    assert served.state()["ready"]


def test_what_an_operator_unloads_is_not_brought_back(served):
    """But it is not called ready either."""
    import tritonclient.grpc as grpc

    control = grpc.InferenceServerClient(served.url)
    try:
        control.unload_model("pitch_full")
        served.until(
            lambda: served.state()["models"]["pitch_full"]["state"] == "unloaded", PATIENCE_S
        )
        served.until(lambda: not served.state()["ready"], PATIENCE_S)
        threading.Event().wait(3)
        assert served.state()["models"]["pitch_full"]["state"] == "unloaded"
        control.load_model("pitch_full")
    finally:
        control.close()
    served.until(lambda: served.state()["ready"], PATIENCE_S)


@pytest.fixture(scope="module")
def stock(only_pitch, folder):
    """A tritonserver that nobody looks after."""
    log = folder / "stock"
    with Server(repository=only_pitch, ports=free_ports(), log=log, stop_s=2) as made:
        yield made


def kill_all(stock, model):
    for one in stubs_of(stock.pid):
        if one.model == model:
            os.kill(one.process.pid, signal.SIGKILL)


def test_a_stock_server_is_watched(stock, only_pitch, tmp_path):
    """`--watch` revives the models of a tritonserver that it did not start."""
    with Served(tmp_path, only_pitch, f"--watch={stock.grpc_url}") as watched:
        kill_all(stock, "pitch_tiny")
        watched.until(lambda: not watched.state()["ready"], PATIENCE_S)
        watched.until(lambda: watched.state()["ready"], PATIENCE_S)

        assert watched.state()["models"]["pitch_tiny"]["revivals"] == 1
    assert watched.process.returncode == 0
    assert stock.ended is None


def test_a_watcher_told_to_stop_ends_what_it_began(stock, only_pitch, tmp_path):
    """The model that it unloaded is loaded before it goes: nobody else would do that."""
    import tritonclient.grpc as grpc

    with Served(tmp_path, only_pitch, f"--watch={stock.grpc_url}") as watched:
        kill_all(stock, "pitch_medium")
        watched.until(lambda: "pitch_medium: reviving" in watched.told, PATIENCE_S)
        watched.process.terminate()
        assert watched.process.wait(PATIENCE_S) == 0

    asked = grpc.InferenceServerClient(stock.grpc_url)
    try:
        assert asked.is_model_ready("pitch_medium")
    finally:
        asked.close()


def test_a_killed_supervisor_leaves_nothing_to_the_next(own_pitch, tmp_path, rows, expected):
    """Its orphaned server, which has the ports, is ended and its shared memory removed."""
    first = Served(tmp_path, own_pitch)
    with first:
        orphan, mark = first.server, first.mark
        first.process.kill()
        first.process.wait()
        assert Process.read(orphan) is not None
        with Served(tmp_path, own_pitch, ports=first.ports) as second:
            found = Process.read(orphan)
            assert found is None or found.state == "Z"
            assert list(MEMORY.glob(f"{mark}*")) == []
            assert "removed what a predecessor left" in second.told
            assert labels(second, rows) == expected


def test_sigterm_drains(own_pitch, tmp_path):
    """Requests under way are answered, new ones refused, and it ends with status 0, all swept."""
    with Served(tmp_path, own_pitch) as served:
        mark = served.mark
        batch = np.repeat(np.stack(notes.rows()[:1]), 32, axis=0)
        outcomes, refused = [], threading.Event()

        def ask():
            with CascadeClient(served.url, "pitch", timeout_s=60) as client:
                client.spec()
                while not refused.is_set():
                    try:
                        outcomes.append(len(client.infer(batch, min_tier=2)))
                    except CascadeError as error:
                        outcomes.append(str(error))
                        refused.set()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 4:
            threading.Event().wait(0.05)
        served.process.terminate()
        for thread in threads:
            thread.join(60)
        assert served.process.wait(60) == 0

        assert set(map(type, outcomes)) == {int, str}
        assert {n for n in outcomes if isinstance(n, int)} == {32}
        for text in (o for o in outcomes if isinstance(o, str)):
            assert "pitch" in text
        assert "server: drained" in served.told
        assert list(MEMORY.glob(f"{mark}*")) == []
