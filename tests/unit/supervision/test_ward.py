"""Models are looked at, told of truly, and revived when, and only when, that can help."""

import itertools
import signal

import pytest
from fake_supervised import ANSWERED, dead, rounds, stub

from cascade_router.supervision.health import Patience
from cascade_router.supervision.processes import Process
from cascade_router.supervision.stub_watch import StubWatch
from cascade_router.supervision.triton import Outcome, Reply
from cascade_router.supervision.ward import Ward

LATE = Reply(outcome=Outcome.LATE, why="no answer in time")
BUSY = Reply(outcome=Outcome.BUSY, why="exceeds maximum queue size")
WRONG = Reply(outcome=Outcome.FAILED, why="CUDA error")


@pytest.fixture
def told():
    return []


@pytest.fixture
def ward(triton, clock, told):
    made = Ward(triton, told.append, clock=clock)
    made.look()
    return made


def test_a_healthy_cascade_is_ready_tier_by_tier(ward, triton, told):
    """Every model and every tier is asked; one line says so."""
    assert ward.ready
    tiers = ward.report()["cascades"]["pitch"]
    assert [(tier["model"], tier["serves"]) for tier in tiers] == [
        ("pitch_small", True),
        ("pitch_large", True),
    ]
    through = [a.parameters["cascade_min_tier"] for a in triton.asked if a.model == "pitch"]
    assert through == [0, 1]
    assert told == ["serving 5 models: pitch by 2 tiers"]


def test_a_dead_expert_is_revived_alone(ward, triton, clock, told):
    """It is unloaded and loaded; router and ensemble, which fail with it, are left alone."""
    triton.faults["pitch_large"] = dead("pitch_large")
    clock.sleep(3)
    ward.look()
    assert not ward.ready
    assert not ward.revive()  # once may be an accident

    assert rounds(ward, clock, 3)

    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]
    assert ward.ready
    assert ward.report()["models"]["pitch_large"]["revivals"] == 1
    assert [line.split(":")[1] for line in told if line.startswith("pitch_large")] == [
        " sick",
        " reviving",
        " serving",
    ]


def test_experts_are_revived_before_the_router(ward, triton, clock):
    """What is called comes before what calls it."""
    triton.faults |= {m: dead(m) for m in ("pitch_router", "pitch_small")}

    assert rounds(ward, clock, 4)
    assert rounds(ward, clock, 4)

    assert triton.log == [
        *(("unload", "pitch_small"), ("load", "pitch_small")),
        *(("unload", "pitch_router"), ("load", "pitch_router")),
    ]
    assert ward.ready


def test_a_flood_is_no_illness(ward, triton, clock):
    """Full queues, and late answers of models that work, revive nothing and stay ready."""
    for i in range(20):
        triton.faults |= {"pitch_small": BUSY, "pitch_large": LATE, "pitch_router": LATE}
        triton.work |= dict.fromkeys(triton.models, i + 1)
        assert not rounds(ward, clock, 1)
        assert ward.ready
    assert triton.log == []


def test_a_model_that_hangs_is_revived(ward, triton, clock):
    """Late, and nothing done: after a while, for a flood on the machine may look like that."""
    triton.faults["pitch_small"] = LATE

    assert not rounds(ward, clock, 6)
    assert rounds(ward, clock, 2)
    assert triton.log == [("unload", "pitch_small"), ("load", "pitch_small")]


def test_errors_are_given_longer_than_silence(ward, triton, clock):
    """A model that answers with errors is loaded anew after half a minute, not before."""
    triton.faults["pitch_large"] = WRONG

    assert not rounds(ward, clock, 10, seconds=3.0)
    assert rounds(ward, clock, 2, seconds=3.0)


def test_a_model_that_never_answered_a_canary_is_left_alone(triton, clock, told):
    """A foreign model may want other rows than zeros: it is reported as not checked, and ready."""
    triton.faults["pitch_small"] = WRONG
    triton.tiers = ["pitch_large"]
    ward = Ward(triton, told.append, clock=clock)

    assert not rounds(ward, clock, 30)
    assert ward.report()["models"]["pitch_small"]["state"] == "loaded, not checked"
    assert ward.ready


def test_what_someone_unloaded_stays_unloaded(ward, triton, clock):
    """It is not brought back; but a tier that is missing is not called served."""
    triton.unloaded["pitch_large"] = "unloaded"

    assert not rounds(ward, clock, 30)
    assert ward.report()["models"]["pitch_large"]["state"] == "unloaded"
    assert not ward.ready
    triton.load(["pitch_large"], 1)
    rounds(ward, clock, 1)
    assert ward.ready


def test_pauses_between_tries_grow(ward, triton, clock):
    """A model that cannot be loaded is tried for ever, more and more seldom."""
    triton.faults["pitch_large"] = dead("pitch_large")
    triton.incurable.add("pitch_large")
    times = [clock() for _ in range(400) if rounds(ward, clock, 1, seconds=0.5)]
    gaps = [round(b - a, 1) for a, b in itertools.pairwise(times)]

    assert gaps[0] == 0.5
    assert gaps == sorted(gaps)
    assert gaps[-1] == pytest.approx(30, abs=0.5)
    triton.incurable.clear()
    assert rounds(ward, clock, 100, seconds=0.5)
    assert ward.ready


def test_an_ensemble_that_does_not_come_back_is_loaded(ward, triton, clock):
    """Unloading a router takes its ensemble away; that counts as ours to repair."""
    triton.faults["pitch_router"] = dead("pitch_router")
    unload = triton.unload

    def unload_both(models):
        unload(models)
        triton.unloaded["pitch"] = "unloaded"
        return {}

    triton.unload = unload_both

    assert rounds(ward, clock, 4)
    assert triton.log[-1] == ("load", "pitch")
    assert ward.ready


def test_a_server_that_does_not_answer_is_not_ready(ward, triton, told):
    """And it is said once, with the reason."""
    triton.down = True
    ward.look()
    ward.look()

    assert not ward.ready
    assert told[1:] == ["server: does not answer: Socket closed"]


def test_a_server_that_was_never_reached_is_told_of(triton, clock, told):
    """A wrong address, say, or a key that is missing: who watches it has to hear that."""
    triton.down = True
    ward = Ward(triton, told.append, clock=clock)
    ward.glance()
    assert told == []

    ward.look()
    ward.look()

    assert told == ["server: does not answer: Socket closed"]


def test_a_process_seen_dying_is_revived_at_once(triton, clock, told, tmp_path):
    """No canary has to fail first; its shared memory is removed, and it is revived once."""
    (tmp_path / "cascade_serve_1_x").touch()
    (tmp_path / "foreign").touch()
    alive = [stub(1, "S"), stub(2, "S")]
    found = list(alive)
    watch = StubWatch(
        1, "cascade_serve_1_", look=lambda _: found, memory=tmp_path, sleep=clock.sleep
    )
    ward = Ward(triton, told.append, stubs=watch, clock=clock)
    ward.look()
    ward.glance()
    found[0] = stub(1, "Z")

    assert ward.glance()
    assert not ward.ready
    assert ward.revive()

    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]
    assert [file.name for file in tmp_path.iterdir()] == ["foreign"]
    assert not ward.glance()
    ward.look()
    assert ward.ready
    assert not ward.revive()


def test_a_process_that_its_server_ended_is_not_missed(triton, clock, told):
    """After an unload the process vanishes: nothing is revived."""
    found = [stub(1, "S")]
    watch = StubWatch(1, "cascade_serve_1_", look=lambda _: found, sleep=lambda _: found.clear())
    ward = Ward(triton, told.append, stubs=watch, clock=clock)
    ward.look()
    ward.glance()
    found[0] = stub(1, "Z")  # for the moment between its end and its server's taking note

    assert not ward.glance()
    assert not ward.revive()


def test_layers_name_callers_first(ward):
    """The order in which a server is emptied."""
    assert ward.layers() == [
        ["pitch"],
        ["pitch_router"],
        ["pitch_control", "pitch_large", "pitch_small"],
    ]


def test_a_late_answer_is_forgiven_when_the_next_comes(ward, triton, clock):
    """Patience is counted from the first failure of a row of them."""
    for _ in range(5):
        triton.faults["pitch_small"] = LATE
        assert not rounds(ward, clock, 1, seconds=Patience().silent_s - 1)
        triton.faults["pitch_small"] = ANSWERED
        assert not rounds(ward, clock, 1)
    assert triton.log == []


@pytest.mark.parametrize("part", ["pitch", "pitch_router", "pitch_control"])
def test_a_cascade_without_one_of_its_parts_is_not_ready(ward, triton, clock, part):
    """Though nothing is sick: someone unloaded it. Gone as a whole, it is no longer missed."""
    triton.unloaded[part] = "unloaded"
    rounds(ward, clock, 1)
    assert not ward.ready
    assert part in ward.report()["cascades"]["pitch"][0]["why"]

    triton.unloaded |= dict.fromkeys(("pitch", "pitch_router", "pitch_control"), "unloaded")
    rounds(ward, clock, 1)
    assert ward.ready
    assert ward.report()["cascades"] == {}


def test_a_dead_process_is_not_forgotten_for_a_healthy_twin(triton, clock, told):
    """Canaries that another instance answers clear nothing; the model is loaded anew."""
    found = [stub(1, "S"), stub(2, "S")]
    watch = StubWatch(1, "cascade_serve_1_", look=lambda _: found, clock=clock, sleep=clock.sleep)
    ward = Ward(triton, told.append, stubs=watch, clock=clock)
    ward.look()
    ward.glance()
    found[0] = stub(1, "Z")
    assert ward.glance()
    ward.look()

    assert not ward.ready
    assert ward.revive()
    ward.look()
    assert ward.ready


def test_a_stopped_process_never_wakes(triton, clock, told, monkeypatch):
    """Its server has given it up after a second: it is ended, and its model loaded anew."""
    sent = []
    monkeypatch.setattr(Process, "send", lambda self, sign: sent.append((self.pid, sign)))
    found = [stub(1, "S"), stub(2, "S")]
    watch = StubWatch(1, "cascade_serve_1_", look=lambda _: found, clock=clock, sleep=clock.sleep)
    ward = Ward(triton, told.append, stubs=watch, clock=clock)
    ward.look()
    found[0] = stub(1, "T")
    assert not ward.glance()
    clock.sleep(0.5)
    assert not ward.glance()
    assert sent == []  # so short a stop is nothing
    clock.sleep(0.5)

    assert ward.glance()
    assert sent == [(1, signal.SIGKILL)]
    assert ward.revive()
    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]


def test_a_short_stop_is_nothing(triton, clock, told):
    """Stopped and woken within a second, again and again."""
    found = [stub(1, "S")]
    watch = StubWatch(1, "cascade_serve_1_", look=lambda _: found, clock=clock, sleep=clock.sleep)
    ward = Ward(triton, told.append, stubs=watch, clock=clock)
    ward.look()
    for _ in range(5):
        for state in "TS":
            found[0] = stub(1, state)
            assert not ward.glance()
            clock.sleep(0.6)
    assert ward.ready
