"""What a revival may and may not do: it is tried again, soon, and takes no version from clients."""

import itertools
import signal

import pytest
from fake_supervised import dead, rounds, stub

from cascade_router.supervision.health import Patience
from cascade_router.supervision.processes import Process
from cascade_router.supervision.stub_watch import StubWatch
from cascade_router.supervision.ward import Ward


@pytest.fixture
def ward(triton, clock):
    made = Ward(triton, [].append, clock=clock)
    made.look()
    return made


@pytest.fixture
def found():
    """The processes of the models; a test exchanges them."""
    return []


@pytest.fixture
def watched(triton, clock, found, tmp_path):
    """A ward that sees them."""
    watch = StubWatch(
        1, "cascade_serve_", look=lambda _: found, memory=tmp_path, clock=clock, sleep=clock.sleep
    )
    return Ward(triton, [].append, stubs=watch, clock=clock)


def test_what_dies_again_and_again_is_back_soon_each_time(watched, triton, clock, found):
    """A process is killed every five seconds, twenty times: none waits longer than four seconds."""
    found[:] = [stub(0, "S")]
    watched.look()
    waits = []
    for pid in range(1, 21):
        clock.sleep(5.0)
        watched.glance()
        found[:] = [stub(pid - 1, "Z")]
        killed = clock()
        while not (watched.glance() and watched.revive()):
            clock.sleep(0.5)
        waits.append(clock() - killed)
        found[:] = [stub(pid, "S")]
        watched.look()
        assert watched.ready
    assert len(triton.log) == 40
    assert max(waits) <= Patience().revived_pause_s + 1.0


def test_what_dies_at_once_is_not_loaded_without_pause(watched, clock, found):
    """The pauses grow to four seconds: loading costs others the processor."""
    found[:] = [stub(0, "S")]
    watched.look()
    watched.glance()
    times = []
    for pid in range(1, 9):
        found[:] = [stub(pid - 1, "Z")]
        while not (watched.glance() and watched.revive()):
            clock.sleep(0.1)
        times.append(clock())
        found[:] = [stub(pid, "S")]
        watched.look()
        watched.glance()
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps[:3] == pytest.approx([0.5, 1.0, 2.0], abs=0.4)
    assert gaps[-1] == pytest.approx(4.0, abs=0.4)


def test_the_pauses_of_a_load_that_fails_begin_anew(ward, triton, clock):
    """Revivals that succeeded before do not make the first failed load wait long."""
    for _ in range(6):
        triton.faults["pitch_large"] = dead("pitch_large")
        assert rounds(ward, clock, 4)
    triton.faults["pitch_large"] = dead("pitch_large")
    triton.incurable.add("pitch_large")
    times = [clock() for _ in range(40) if rounds(ward, clock, 1, seconds=0.25)]

    assert times[1] - times[0] == pytest.approx(Patience().first_pause_s, abs=0.25)


def test_a_load_that_is_refused_is_tried_again(ward, triton, clock):
    """The index goes on saying "unloaded", for that is what was done to it, by ourselves."""
    triton.faults["pitch_large"] = dead("pitch_large")
    triton.refused.add("pitch_large")
    assert rounds(ward, clock, 4)
    for _ in range(3):
        assert not ward.ready
        assert ward.report()["models"]["pitch_large"]["state"] == "sick"
        assert "failed to poll" in ward.report()["models"]["pitch_large"]["why"]
        assert rounds(ward, clock, 10)

    triton.refused.clear()
    assert rounds(ward, clock, 20)
    assert ward.ready


def test_a_load_that_outlasts_our_patience_is_waited_for(ward, triton, clock):
    """To unload and load a large model again and again would mean that it never serves."""
    triton.faults["pitch_large"] = dead("pitch_large")
    triton.slow.add("pitch_large")
    assert rounds(ward, clock, 4)

    assert not rounds(ward, clock, 100)
    assert ward.report()["models"]["pitch_large"]["state"] == "reviving"
    assert not ward.ready
    triton.unloaded.clear()
    assert not rounds(ward, clock, 10)

    assert ward.ready
    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]


def test_a_dead_process_is_forgotten_while_its_model_loads_for_long(watched, triton, clock, found):
    """What was lost is on its way back: the end of that load is not the time for another."""
    found[:] = [stub(1, "S")]
    watched.look()
    watched.glance()
    found[:] = [stub(1, "Z")]
    triton.slow.add("pitch_large")
    assert watched.glance()
    assert watched.revive()
    found[:] = [stub(2, "S")]

    assert not rounds(watched, clock, 20)
    triton.unloaded.clear()
    assert not rounds(watched, clock, 20)

    assert watched.ready


def test_a_load_that_fails_late_is_tried_again(ward, triton, clock):
    """Waited for, it comes to nothing."""
    triton.faults["pitch_large"] = dead("pitch_large")
    triton.slow.add("pitch_large")
    assert rounds(ward, clock, 4)
    assert not rounds(ward, clock, 10)

    triton.slow.clear()
    triton.unloaded["pitch_large"] = "no such file"

    assert rounds(ward, clock, 4)
    assert ward.ready


def test_an_unload_by_an_operator_after_a_revival_is_respected(ward, triton, clock):
    """What counts is who unloaded it last."""
    triton.faults["pitch_large"] = dead("pitch_large")
    assert rounds(ward, clock, 4)
    assert ward.ready

    triton.unloaded["pitch_large"] = "unloaded"

    assert not rounds(ward, clock, 30)
    assert ward.report()["models"]["pitch_large"]["state"] == "unloaded"


def test_an_ensemble_that_cannot_be_loaded_is_tried_again(ward, triton, clock):
    """It went with its router, by our doing, and its own load was refused."""
    triton.faults["pitch_router"] = dead("pitch_router")
    triton.refused.add("pitch")
    unload = triton.unload

    def unload_both(models):
        unload(models)
        triton.unloaded["pitch"] = "unloaded"
        return {}

    triton.unload = unload_both
    assert rounds(ward, clock, 4)
    triton.unload = unload
    assert not ward.ready
    assert ward.report()["models"]["pitch"]["state"] == "sick"

    triton.refused.clear()
    assert rounds(ward, clock, 4)
    assert ward.ready


def test_one_dead_process_of_several_is_found_through_its_tier(ward, triton, clock):
    """Asked alone, a healthy twin answers for it; that clears nothing."""
    triton.through["pitch_large"] = dead("pitch_large")

    assert rounds(ward, clock, 6)

    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]
    assert ward.ready


def test_a_dead_process_met_now_and_then_is_found(ward, triton, clock):
    """Which process a canary meets is chance: between two that met the dead one, others answer."""
    for look in range(6):
        triton.through = {"pitch_large": dead("pitch_large")} if look % 2 == 0 else {}
        if rounds(ward, clock, 1):
            break
    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]


def test_one_accusation_is_forgotten(ward, triton, clock):
    """Named dead once, then well for a while: nothing is loaded, and it is ready again."""
    triton.through["pitch_large"] = dead("pitch_large")
    assert not rounds(ward, clock, 1)
    triton.through.clear()

    assert not rounds(ward, clock, 20)
    assert ward.ready
    assert triton.log == []


@pytest.mark.parametrize("model", ["pitch_large", "pitch_router"])
def test_a_version_on_trial_is_left_to_who_deploys_it(watched, triton, clock, found, model):
    """Its process dies while it is verified: the version that clients are answered by stays."""
    triton.in_force = dict.fromkeys(("pitch_small", "pitch_large", "pitch_router"), "1")
    watched.look()
    triton.versions[model] = ["1", "2"]
    found[:] = [stub(1, "S", model, "1"), stub(2, "S", model, "2")]
    watched.look()
    watched.glance()
    found[1] = stub(2, "Z")

    for _ in range(20):
        assert not watched.glance()
        watched.look()
        assert not watched.revive()
        assert watched.ready
        clock.sleep(3.0)
    assert triton.log == []


def test_a_version_on_trial_that_took_over_is_revived(watched, triton, clock, found):
    """From then on it is the one that clients need."""
    triton.in_force = dict.fromkeys(("pitch_large", "pitch_router"), "1")
    triton.versions["pitch_large"] = ["1", "2"]
    found[:] = [stub(1, "S"), stub(2, "S", version="2")]
    watched.look()
    watched.glance()
    found[1] = stub(2, "Z")
    assert not watched.glance()

    triton.in_force["pitch_large"] = "2"
    watched.look()

    assert watched.glance()
    assert watched.revive()
    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]


def test_a_dead_version_in_force_is_revived_whatever_is_on_trial(watched, triton, found):
    """Clients wait for it."""
    triton.in_force = {"pitch_large": "1"}
    triton.versions["pitch_large"] = ["1", "2"]
    found[:] = [stub(1, "S"), stub(2, "S", version="2")]
    watched.look()
    watched.glance()
    found[0] = stub(1, "Z")

    assert watched.glance()
    assert watched.revive()


def test_canaries_ask_the_version_in_force(ward, triton, clock):
    """Not the newest, which may be on trial; where none is told, or it is gone, the newest."""
    triton.in_force = {"pitch_small": "1", "pitch_large": "1", "pitch_router": "3"}
    triton.versions |= {"pitch_large": ["1", "2"], "pitch_small": ["2"], "pitch_router": ["2", "3"]}
    rounds(ward, clock, 1)
    triton.asked.clear()
    rounds(ward, clock, 1)

    asked = {ask.model: ask.version for ask in triton.asked}
    assert asked == {
        "pitch": "",
        "pitch_control": "",
        "pitch_router": "3",
        "pitch_large": "1",
        "pitch_small": "",
    }


@pytest.fixture
def sent(monkeypatch):
    """Signals to processes, which none of them gets."""
    signals = []
    monkeypatch.setattr(Process, "send", lambda self, sign: signals.append((self.pid, sign)))
    return signals


@pytest.fixture
def revived(watched, clock, found):
    """A ward that has revived a model of two processes: of the former, 1 is dead and 2 lingers."""
    found[:] = [stub(1, "S"), stub(2, "S")]
    watched.look()
    watched.glance()
    found[0] = stub(1, "Z")
    assert watched.glance()
    assert watched.revive()
    found[1:] = [stub(2, "S"), stub(3, "S"), stub(4, "S")]
    watched.look()
    assert not watched.glance()
    return watched


def test_a_former_process_that_lingers_is_ended(revived, clock, found, sent, tmp_path):
    """Its server keeps it for good; it has half a minute for what it had taken."""
    (tmp_path / stub(2, "S").region).touch()
    clock.sleep(29.0)
    assert not revived.glance()
    assert sent == []

    clock.sleep(1.5)
    assert not revived.glance()
    assert sent == [(2, signal.SIGKILL)]
    assert list(tmp_path.iterdir()) == []

    found[1] = stub(2, "Z")
    clock.sleep(60.0)
    assert not revived.glance()
    revived.look()
    assert revived.ready
    assert not revived.revive()
    assert sent == [(2, signal.SIGKILL)]


def test_a_former_process_that_dies_by_itself_is_no_loss(revived, clock, found, sent, tmp_path):
    """The model has others since; what it left is removed."""
    (tmp_path / stub(2, "S").region).touch()
    found[1] = stub(2, "Z")

    assert not revived.glance()
    assert not revived.revive()
    assert list(tmp_path.iterdir()) == []
    assert sent == []


def test_a_former_process_that_goes_in_time_is_not_touched(revived, clock, found, sent):
    """Nor are those that came after it."""
    del found[1]
    clock.sleep(60.0)

    assert not revived.glance()
    assert sent == []


def test_a_process_that_dies_beside_a_former_one_is_revived(revived, triton, clock, found, sent):
    """It is one of those that serve."""
    clock.sleep(5.0)
    found[2] = stub(3, "Z")

    assert revived.glance()
    assert revived.revive()
    assert triton.log[-2:] == [("unload", "pitch_large"), ("load", "pitch_large")]
