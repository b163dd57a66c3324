"""Experts are replaced in the running server, under load: every answer is of one edition."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
import oracle
import pytest
import toy_onnx
from onnx_files import INPUTS, linear, save, two_layers
from supervised import Served
from tritonclient.grpc import InferenceServerClient

from cascade_builder.build import build
from cascade_builder.deploy import deploy, rollback
from cascade_builder.running import TritonServer
from cascade_builder.spec import Spec
from cascade_client import CascadeClient
from cascade_router.errors import BuildError, CascadeError, ServerError
from cascade_router.keys import HEADER, Keys
from cascade_router.serve import Server, free_ports
from cascade_router.supervision.processes import stubs_of
from cascade_router.versions import folder_in_force

ROWS = np.random.default_rng(5).standard_normal((64, INPUTS)).astype(np.float32)
_CLIENTS = 3
_PAUSE_S = 0.004
_SAME = 1e-4

Key = tuple[int, int, float]


def deep(generator, hidden):
    """Make an expert that costs more, and that is not sure of everything."""
    model = two_layers(hidden)
    weights = generator.standard_normal((hidden, 3)) / hidden
    model.graph.initializer[0].CopyFrom(linear(weights=weights).graph.initializer[0])
    return model


@dataclass
class Site:
    """A built toy, and the real server that serves it."""

    folder: Path
    server: Server
    reached: TritonServer
    seed: int = 0

    @property
    def root(self):
        return self.folder / "repository"

    @property
    def spec(self):
        return Spec.read(self.folder / "cascade.toml")

    def deploy(self, server=None):
        return deploy(
            self.spec, self.root, server or self.reached, artifacts_folder=self.folder / "build"
        )

    def rollback(self):
        return rollback("toy", self.root, self.reached)

    def replace(self):
        """Give both experts other weights, so that an answer of old and new together shows."""
        self.seed += 1
        generator = np.random.default_rng(100 + self.seed)
        save(linear(weights=generator.standard_normal((INPUTS, 3))), self.folder / "small.onnx")
        save(deep(generator, 4096), self.folder / "large.onnx")

    def truth(self):
        """Answer every row by the edition in force, the dull way: (tier, label, confidence)."""
        folder = folder_in_force(self.root, "toy")
        experts = json.loads((folder / "manifest.json").read_text())["experts"]
        logits = [
            _run(self.root / one["model"] / str(one["version"]) / "model.onnx") for one in experts
        ]
        policy = json.loads((folder / "policy.json").read_text())
        return [oracle.answer(policy, [one[i] for one in logits]) for i in range(len(ROWS))]


def _run(path):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: ROWS})[0]


@dataclass
class Load:
    """Clients that ask without pause; a context manager.

    Attributes:
        answers: When each row was asked, its number and its answer.
        errors: Of requests that failed.
    """

    url: str
    answers: list[tuple[float, int, Key]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __enter__(self):
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed):
        generator = np.random.default_rng(seed)
        with CascadeClient(self.url, "toy") as client:
            while not self._stop.is_set():
                chosen = generator.choice(len(ROWS), 3)
                time.sleep(_PAUSE_S)
                start = time.monotonic()
                try:
                    found = client.infer(ROWS[chosen])
                except CascadeError as error:
                    self.errors.append(str(error))
                    continue
                self.answers += [
                    (start, int(row), (one.tier, one.label, one.confidence))
                    for row, one in zip(chosen, found, strict=True)
                ]


def same(answer, truth):
    return answer[:2] == truth[:2] and abs(answer[2] - truth[2]) < _SAME


def check(load, editions):
    """Every answer is that of one edition, and of the last one for what was asked after it.

    Args:
        load: What was asked.
        editions: Since when each was in force, and its truth.

    Returns:
        How many answers each edition may have given, without those that all would give.
    """
    assert load.errors == []
    truths = [truth for _, truth in editions]
    seen = [0] * len(truths)
    for start, row, answer in load.answers:
        known = [k for k, truth in enumerate(truths) if same(answer, truth[row])]
        assert known, f"row {row} was answered {answer}, by no edition alone"
        at_least = max(k for k, (since, _) in enumerate(editions) if since <= start)
        assert any(k >= at_least for k in known), f"row {row} was answered by an edition before"
        for k in known if len(known) < len(truths) else ():
            seen[k] += 1
    return seen


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy")
    spec = Spec.read(toy_onnx.write(folder))
    build(spec, folder / "repository", artifacts_folder=folder / "build")
    log = folder / "server.log"
    with Server(repository=folder / "repository", ports=free_ports(), log=log) as running:
        yield Site(folder, running, TritonServer(running.grpc_url))


@pytest.fixture
def editions(site):
    """The edition in force at the start of a test."""
    return [(0.0, site.truth())]


def test_experts_are_replaced_under_load(site, editions):
    """Twice, each by one call: none fails, none is answered by old and new together."""
    with Load(site.server.grpc_url) as load:
        for _ in range(2):
            site.replace()
            done = site.deploy()
            assert set(done.experts.values()) == {"replaced"}
            editions.append((time.monotonic(), site.truth()))
        time.sleep(0.5)

    seen = check(load, editions)
    assert min(seen) > 50, seen
    assert build(site.spec, site.root, artifacts_folder=site.folder / "build").nothing_done


@pytest.mark.slow
def test_going_back_under_load(site, editions):
    """The edition before is in force again; done twice, this one is."""
    site.replace()
    site.deploy()
    new = site.truth()
    old = editions[0][1]
    back = [(0.0, new)]
    with Load(site.server.grpc_url) as load:
        for truth in (old, new):
            assert site.rollback().action == "rolled back"
            back.append((time.monotonic(), truth))
        time.sleep(0.3)

    assert min(check(load, back)) > 50


class Spoiled(TritonServer):
    """A server that finds another file than was built, the first time it looks."""

    def __init__(self, url, path, data):
        super().__init__(url)
        self.path, self.data = path, data

    def load(self, model):
        if self.data and self.path.is_file():
            self.path.write_bytes(self.data)
            self.data = None
        super().load(model)


def newest(site, model):
    found = max((site.root / model).glob("[0-9]*"), key=lambda path: int(path.name))
    return site.root / model / str(int(found.name) + 1) / "model.onnx"


def test_an_expert_that_answers_otherwise_is_not_switched_to(site, editions):
    """Its golden rows differ: the old edition serves on, nothing of the new one stays."""
    before = toy_onnx.tree(site.root)
    other = (site.folder / "build" / "toy" / "experts").glob("small-*/model.onnx")
    data = next(path.read_bytes() for path in sorted(other))
    site.replace()
    spoiled = Spoiled(site.server.grpc_url, newest(site, "toy_small"), data)

    with Load(site.server.grpc_url) as load:
        with pytest.raises(
            BuildError, match=r"expert 'small' .* answers the golden rows otherwise"
        ):
            site.deploy(spoiled)
        time.sleep(0.3)

    check(load, editions)
    assert _sources(toy_onnx.tree(site.root)) == _sources(before)
    assert site.reached.ready()


def test_an_expert_that_cannot_be_loaded_leaves_the_server_ready(site, editions):
    """Triton's own readiness, too, is as before."""
    site.replace()
    spoiled = Spoiled(site.server.grpc_url, newest(site, "toy_small"), b"no graph")

    with Load(site.server.grpc_url) as load:
        with pytest.raises(ServerError, match=r"model\.onnx: cannot be opened"):
            site.deploy(spoiled)
        time.sleep(0.3)

    check(load, editions)
    assert site.reached.ready()


class Interrupted(TritonServer):
    """A server whose operator presses Ctrl-C the moment that the ensemble is loaded."""

    def load(self, model):
        super().load(model)
        if model == "toy":
            self.load = super().load
            raise KeyboardInterrupt


def test_a_deployment_that_is_interrupted_after_the_switch_goes_back(site, editions):
    """The ensemble is loaded anew before the router that it called is taken out of service."""
    site.replace()
    with Load(site.server.grpc_url) as load:
        with pytest.raises(KeyboardInterrupt):
            site.deploy(Interrupted(site.server.grpc_url))
        time.sleep(0.3)
        since = time.monotonic()
        time.sleep(0.3)

    assert site.truth() == editions[0][1]
    late = [(row, answer) for start, row, answer in load.answers if start > since]
    assert load.errors == []
    assert len(late) > 10
    assert all(same(answer, editions[0][1][row]) for row, answer in late)
    assert site.reached.ready()
    assert {len(_ready(versions)) for versions in site.reached.states().values()} <= {0, 1}


def _ready(versions):
    return [version for version, state in versions.items() if state == "READY"]


def test_serving_options_are_rolled_back_in_the_server(site):
    """They are part of an edition: Triton's own config says so."""
    path = site.folder / "cascade.toml"
    text = path.read_text()
    with CascadeClient(site.server.grpc_url, "toy") as client:
        before = client.infer(ROWS)
    try:
        path.write_text(text.replace('name = "large"\n', 'name = "large"\ninstances = 2\n'))
        site.deploy()
        assert _instances(site) == 2
        site.rollback()
        assert _instances(site) == 1
    finally:
        path.write_text(text)
    with CascadeClient(site.server.grpc_url, "toy") as client:
        after = client.infer(ROWS)
    assert [(one.tier, one.label) for one in after] == [(one.tier, one.label) for one in before]


def _instances(site):
    with InferenceServerClient(site.server.grpc_url) as client:
        return client.get_model_config("toy_large").config.instance_group[0].count


def _sources(tree):
    """Leave out what Python's stubs write beside models."""
    return {name: data for name, data in tree.items() if "__pycache__" not in name}


class Deadly(TritonServer):
    """A server where the process of a second version of a model dies once it is loaded."""

    def __init__(self, served, model):
        super().__init__(served.url)
        self.served, self.model = served, model
        self.died = 0

    def load(self, model):
        super().load(model)
        found = [one for one in stubs_of(self.served.server) if one.model == self.model]
        second = [one for one in found if one.version != "1"]
        if second and not self.died:
            for one in second:
                one.process.send(signal.SIGKILL)
            self.died = len(second)
            threading.Event().wait(3)  # it is looked at several times meanwhile
            message = "a process of the new version died"
            raise ServerError(message)


@pytest.mark.parametrize("model", ["toy_small", pytest.param("toy_router", marks=pytest.mark.slow)])
def test_a_new_version_that_dies_takes_nothing_from_clients(tmp_path, model):
    """`cascade-serve` leaves it to who deploys it: the old edition serves on, without a gap."""
    spec = Spec.read(toy_onnx.write(tmp_path))
    build(spec, tmp_path / "repository", artifacts_folder=tmp_path / "build")
    with Served(tmp_path, tmp_path / "repository") as served:
        deadly = Deadly(served, model)
        site = Site(tmp_path, served, deadly)
        editions = [(0.0, site.truth())]
        site.replace()
        with Load(served.url) as load:
            with pytest.raises(ServerError, match="a process of the new version died"):
                site.deploy()
            time.sleep(0.3)

        assert deadly.died > 0
        check(load, editions)
        assert {one["revivals"] for one in served.state()["models"].values()} == {0}
        served.until(lambda: served.state()["ready"], 60)


@pytest.mark.slow
def test_an_expert_is_added_under_load_and_taken_out_again(site, editions):
    """Rows that it is sure of are answered by it, then by the others again."""
    site.replace()
    site.deploy()
    before = site.truth()
    save(deep(np.random.default_rng(7), 1024), site.folder / "medium.onnx")
    path = site.folder / "cascade.toml"
    text = path.read_text()
    added = '[[expert]]\nname = "medium"\nonnx = "medium.onnx"\n\n[[expert]]\nname = "large"\n'
    path.write_text(text.replace('[[expert]]\nname = "large"\n', added))
    known = [(0.0, before)]
    try:
        with Load(site.server.grpc_url) as load:
            assert site.deploy().experts["medium"] == "added"
            known.append((time.monotonic(), site.truth()))
            assert site.rollback().experts["medium"] == "removed"
            known.append((time.monotonic(), before))
            time.sleep(0.3)
        check(load, known)
        assert {tier for _, _, (tier, _, _) in load.answers} == {0, 1, 2}
        assert "toy_medium" not in {
            model
            for model, versions in site.reached.states().items()
            if "READY" in versions.values()
        }
    finally:
        path.write_text(text)


def test_a_switched_edition_survives_a_restart(site, tmp_path):
    """A server that is started on the repository serves what was in force, and only that."""
    site.replace()
    site.deploy()
    truth = site.truth()
    copy = tmp_path / "models"
    shutil.copytree(site.root, copy)

    with (
        Server(repository=copy, ports=free_ports(), log=tmp_path / "log") as second,
        CascadeClient(second.grpc_url, "toy") as client,
    ):
        client.wait_ready(60)
        found = client.infer(ROWS)
        states = TritonServer(second.grpc_url).states()

    assert all(
        same((one.tier, one.label, one.confidence), right)
        for one, right in zip(found, truth, strict=True)
    )
    assert {len(versions) for versions in states.values()} == {1}


def test_a_server_without_control_on_demand_is_refused(site, tmp_path):
    """The command says how to start one that has it."""
    copy = tmp_path / "models"
    shutil.copytree(site.root, copy)
    flags = ["--model-control-mode=none"]
    with Server(repository=copy, ports=free_ports(), log=tmp_path / "log", flags=flags) as fixed:
        command = "from cascade_builder.cli import main; main()"
        options = ["--url", fixed.grpc_url, "--repository", str(copy)]
        done = subprocess.run(
            [sys.executable, "-c", command, "rollback", "toy", *options],
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 1
    assert "does not load models on demand" in done.stderr
    assert "--model-control-mode=explicit" in done.stderr


def test_a_guarded_server_wants_the_control_key(site, tmp_path):
    """Without it nothing is loaded; with it the command does what it does."""
    copy = tmp_path / "models"
    shutil.copytree(site.root, copy)
    keys = Keys.create(tmp_path / "keys.toml")
    flags = [f"--grpc-restricted-protocol=model-repository:{HEADER}={keys.control}"]
    with Server(repository=copy, ports=free_ports(), log=tmp_path / "log", flags=flags) as guarded:
        with pytest.raises(ServerError, match="the server is guarded") as refused:
            rollback("toy", copy, TritonServer(guarded.grpc_url))
        done = rollback("toy", copy, TritonServer(guarded.grpc_url, keys))

    assert "--keys" in refused.value.hint
    assert done.action == "rolled back"
