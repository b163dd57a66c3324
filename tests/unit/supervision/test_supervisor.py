"""A server that dies is started anew, in bounds; told to stop, it is emptied first."""

import ctypes
import os
import signal
import subprocess
import threading

import pytest
from fake_supervised import FakeServer, FakeTriton

from cascade_router.errors import ServerError
from cascade_router.supervision.drain import drain
from cascade_router.supervision.processes import Process
from cascade_router.supervision.remains import Claim
from cascade_router.supervision.supervisor import Supervisor
from cascade_router.supervision.triton import Outcome, Reply
from cascade_router.supervision.watcher import Pace, Watcher


class Script(threading.Event):
    """The stop event: its waits move the clock and the story on."""

    def __init__(self, clock, *steps):
        super().__init__()
        self.clock, self.steps = clock, list(steps)

    def wait(self, timeout=None):
        self.clock.sleep(timeout)
        if self.steps:
            self.steps.pop(0)()
        else:
            self.set()
        return self.is_set()


@pytest.fixture
def claim(tmp_path):
    (tmp_path / "models").mkdir()
    made = Claim(tmp_path / "models", tmp_path / "claims")
    yield made
    made.release()


@pytest.fixture
def world(claim, clock):
    """A supervisor of fakes: its servers, its connection, what it told."""

    class World:
        triton, servers, told = FakeTriton(), [], []

        def launch(self, mark):
            self.servers.append(FakeServer(mark, **self.next()))
            return self.servers[-1]

        def next(self):
            return {}

    made = World()
    made.claim = claim
    made.told = []
    made.servers = []
    made.supervisor = Supervisor(
        claim, made.launch, lambda: made.triton, made.told.append, pace=Pace(), clock=clock
    )
    return made


def test_it_serves_drains_and_stops(world, clock):
    """Ready while it serves; on the way out models are unloaded, callers first."""
    seen = []
    stop = Script(clock, lambda: None, lambda: seen.append(world.supervisor.report()["ready"]))

    assert world.supervisor.run(stop, threading.Event()) == 0

    assert seen == [True]
    unloads = [entry for entry in world.triton.log if entry[0] == "unload"]
    assert unloads[:2] == [("unload", "pitch"), ("unload", "pitch_router")]
    assert world.servers[0].stopped
    assert world.told[-2:] == ["server: draining", "server: drained"]
    assert not world.supervisor.report()["ready"]


def test_a_dead_server_is_started_anew(world, clock):
    """With another mark, after a pause; the report says so."""
    seen = []

    def die():
        world.servers[-1].status = -9

    stop = Script(
        clock, die, lambda: None, lambda: None, lambda: seen.append(world.supervisor.report())
    )

    assert world.supervisor.run(stop, threading.Event()) == 0

    assert len({server.mark for server in world.servers}) == 2
    assert (seen[0]["ready"], seen[0]["restarts"]) == (True, 1)
    assert "server: tritonserver ended with status -9; starting it anew in 0.25 s" in world.told


def test_a_server_that_serves_each_time_is_never_given_up(world, clock):
    """However often it dies: it is needed back, after two seconds at the latest."""
    lives = []

    def live_and_die():
        lives.append(world.supervisor.report()["ready"])
        world.servers[-1].status = -9

    stop = Script(clock, *[live_and_die, lambda: None] * 20)

    assert world.supervisor.run(stop, threading.Event()) == 0

    assert lives == [True] * 20
    pauses = [float(line.split()[-2]) for line in world.told if "starting it anew" in line]
    assert pauses == [0.25, 0.5, 1.0] + [2.0] * 17


def test_a_server_that_serves_in_part_for_long_is_never_given_up(world, clock):
    """One tier fails for good and the others answer: months may lie between two deaths."""
    world.triton.faults["pitch_large"] = Reply(outcome=Outcome.FAILED, why="CUDA error")
    lives = []

    def live_and_die():
        lives.append(world.supervisor.report()["state"])
        clock.sleep(90)
        world.servers[-1].status = -9

    stop = Script(clock, *[live_and_die, lambda: None] * 10)

    assert world.supervisor.run(stop, threading.Event()) == 0

    assert lives == ["impaired"] * 10
    pauses = [float(line.split()[-2]) for line in world.told if "starting it anew" in line]
    assert pauses == [0.25] * 10


def test_a_server_that_keeps_dying_is_given_up(world, clock):
    """After five starts in vain, with growing pauses; exit status 1."""
    lives = iter([None] + [1] * 9)
    world.next = lambda: {"status": next(lives)}

    def die():
        world.servers[-1].status = 1

    stop = Script(clock, die, *[lambda: None] * 50)

    assert world.supervisor.run(stop, threading.Event()) == 1

    assert len(world.servers) == 6
    pauses = [float(line.split()[-2]) for line in world.told if "starting it anew" in line]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert "given up after 5 starts in vain" in world.told[-1]


def test_time_spent_loading_is_no_service(world, clock):
    """One that loads for minutes and dies when it serves dies in a row: pauses grow."""

    def die():
        world.servers[-1].status = 1

    def load():
        world.triton.down = False
        clock.sleep(90)

    steps = []
    for _ in range(4):
        steps += [load, die, lambda: setattr(world.triton, "down", True)]
    world.triton.down = True

    world.supervisor.run(Script(clock, *steps), threading.Event())

    pauses = [float(line.split()[-2]) for line in world.told if "starting it anew" in line]
    assert pauses == [0.25, 0.5, 1.0, 2.0]


def test_a_server_that_never_served_is_an_error(world, clock):
    """The first start is not tried again: the operator is there to read why."""
    world.next = lambda: {"status": 1}

    with pytest.raises(ServerError, match="ended with status 1 while loading"):
        world.supervisor.run(Script(clock), threading.Event())
    assert world.servers[0].stopped


def test_a_server_that_cannot_be_started_is_an_error(world, clock, claim):
    """The reason comes through, and nothing is left recorded."""
    world.next = lambda: {"refuses": ServerError("port 8000 (http) is in use")}

    with pytest.raises(ServerError, match="is in use"):
        world.supervisor.run(Script(clock), threading.Event())
    assert claim.marks() == []


def test_a_server_that_hangs_is_started_anew(world, clock):
    """No answer for half a minute and no work done: it is ended by force."""

    def hang():
        world.triton.down = True

    def wake():
        if len(world.servers) > 1:
            world.triton.down = False

    stop = Script(clock, hang, *[wake] * 80)

    world.supervisor.run(stop, threading.Event())

    assert any("gave no sign of life for 30 s" in line for line in world.told)
    assert world.servers[0].stopped
    assert len(world.servers) == 2


class Parent(FakeServer):
    """It starts a process that outlives it."""

    def start(self):
        line = ["/bin/sh", "-c", "sleep 1000 & echo $!"]
        self.process = subprocess.Popen(line, process_group=0, stdout=subprocess.PIPE)
        self.left = int(self.process.stdout.readline())

    @property
    def pid(self):
        return self.process.pid

    def stop(self, timeout_s):
        self.process.wait()
        self.process.stdout.close()
        os.kill(self.left, signal.SIGKILL)
        while Process.read(self.left).state != "Z":
            threading.Event().wait(0.01)
        return 0


@pytest.fixture
def heir():
    """This process inherits what its children leave, as process 1 of a container does."""
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    assert prctl(set_child_subreaper, 1, 0, 0, 0) == 0
    yield
    prctl(set_child_subreaper, 0, 0, 0, 0)


@pytest.mark.usefixtures("heir")
def test_what_a_dead_server_leaves_does_not_stay_as_zombies(world, clock):
    """A container has room for so many processes, dead ones included."""

    def launch(mark):
        world.servers.append(Parent(mark))
        return world.servers[-1]

    supervisor = Supervisor(
        world.claim, launch, lambda: world.triton, world.told.append, clock=clock
    )

    assert supervisor.run(Script(clock), threading.Event()) == 0
    assert Process.read(world.servers[0].left) is None


def test_a_second_signal_ends_the_drain(clock):
    """And the limit does, however long a request takes."""
    triton = FakeTriton()
    triton.unload = lambda models: {}  # never done

    assert not drain(triton, [["pitch"]], limit_s=20, clock=clock, sleep=clock.sleep)
    assert clock() == pytest.approx(1020, abs=0.2)
    hurried = drain(triton, [["pitch"]], limit_s=20, hurry=lambda: True, clock=clock)
    assert not hurried


def test_a_second_signal_unloads_nothing_more(clock):
    """It may come while a layer is being unloaded."""
    triton, hurry = FakeTriton(), threading.Event()
    unload = triton.unload

    def unload_slowly(models):
        hurry.set()
        return unload(models)

    triton.unload = unload_slowly
    layers = [["pitch"], ["pitch_router"]]

    assert not drain(triton, layers, limit_s=20, hurry=hurry.is_set, clock=clock)
    assert triton.log == [("unload", "pitch")]


def test_a_server_too_busy_to_tell_is_not_taken_for_empty(clock):
    """In a flood the index comes too late; what runs then is not taken its models away."""
    triton = FakeTriton()
    index, slow = triton.index, iter(range(50))
    triton.index = lambda: "Deadline Exceeded" if next(slow, None) is not None else index()

    assert drain(triton, [["pitch"], ["pitch_router"]], limit_s=9, clock=clock, sleep=clock.sleep)
    assert clock() >= 1000 + 50 * 0.1


def test_a_server_that_is_gone_is_not_waited_for(clock):
    """Nobody is left to finish anything."""
    triton = FakeTriton()
    triton.down = True
    layers = [["pitch"], ["pitch_router"]]

    assert drain(triton, layers, limit_s=9, gone=lambda: True, clock=clock, sleep=clock.sleep)
    assert clock() == 1000
    assert not drain(triton, layers, limit_s=9, clock=clock, sleep=clock.sleep)


def test_a_layer_waits_for_the_one_above(clock):
    """A router goes when its ensemble has finished, not before."""
    triton = FakeTriton()
    order, left = [], {"pitch": 3, "pitch_router": 2}

    def index():
        rows = FakeTriton.index(triton)
        for row in rows:
            if left.get(row.model, 0) and row.model in triton.unloaded:
                left[row.model] -= 1
                object.__setattr__(row, "state", "UNLOADING")
        return rows

    def unload(models):
        order.append((models, dict(left)))
        return FakeTriton.unload(triton, models)

    triton.index, triton.unload = index, unload

    assert drain(triton, [["pitch"], ["pitch_router"]], limit_s=9, clock=clock, sleep=clock.sleep)
    assert order[1] == (["pitch_router"], {"pitch": 0, "pitch_router": 2})


def test_a_look_that_fails_is_not_repeated_at_every_glance(clock):
    """Whatever a server says that nobody can read: it is asked as often as ever, and told of."""
    triton, told = FakeTriton(), []
    triton.known = lambda model: 1 / 0
    watcher = Watcher(triton, told.append, pace=Pace(), clock=clock)
    for _ in range(60):
        watcher.step()
        clock.sleep(0.5)

    assert told == ["this look failed: ZeroDivisionError: division by zero"] * 10


def test_an_old_report_is_not_believed(clock):
    """When looking itself is stuck, readiness ends."""
    watcher = Watcher(FakeTriton(), lambda line: None, pace=Pace(), clock=clock)
    watcher.step()
    assert watcher.report()["ready"]

    clock.sleep(60)

    assert (watcher.report()["ready"], watcher.report()["state"]) == (False, "stuck")
