"""What others do to a server while it is looked after, and models that are not of a cascade."""

from dataclasses import replace

import pytest
from fake_supervised import FRAME, dead, rounds

from cascade_router.supervision.triton import Known, Outcome, Port, Reply, Version
from cascade_router.supervision.ward import Ward

LATE = Reply(outcome=Outcome.LATE, why="no answer in time")
WRONG = Reply(outcome=Outcome.FAILED, why="CUDA error")
WIDE = Port(name="FRAME", datatype="FP32", shape=(8,))
MORE = Port(name="MORE", datatype="FP32", shape=(2,))
WORDS = Port(name="WORDS", datatype="STRING", shape=(1,))


@pytest.fixture
def ward(triton, clock):
    """A ward of a cascade, a model that is asked, and one for which no canary can be made."""
    triton.models["other"] = Known(name="other", batches=True, inputs=(FRAME,))
    triton.models["words"] = Known(name="words", batches=True, inputs=(WORDS,))
    made = Ward(triton, [].append, clock=clock)
    made.look()
    assert made.ready
    return made


def state(ward, model):
    return ward.report()["models"][model]["state"]


def sicken(triton, ward, clock, model):
    """Let a model die that cannot be loaded again; the pauses between tries are long by then."""
    triton.faults[model] = dead(model)
    triton.incurable.add(model)
    for _ in range(30):
        rounds(ward, clock, 1)
    triton.log.clear()


@pytest.mark.parametrize("sick", ["pitch_large", "other"])
def test_a_dead_router_waits_for_nobody(ward, triton, clock, sick):
    """Neither a tier of its own nor a foreign model that cannot be loaded holds its revival up."""
    sicken(triton, ward, clock, sick)
    triton.faults["pitch_router"] = dead("pitch_router")

    for _ in range(5):
        rounds(ward, clock, 1)

    assert ("load", "pitch_router") in triton.log
    assert state(ward, "pitch_router") == "serving"
    assert ward.report()["cascades"]["pitch"][0]["serves"]


@pytest.mark.parametrize(("sick", "waits"), [("pitch_large", True), ("other", False)])
def test_a_silent_router_waits_for_its_own_tiers_alone(ward, triton, clock, sick, waits):
    """It may be silent for one of them; what it does not call it is not silent for."""
    sicken(triton, ward, clock, sick)
    triton.faults["pitch_router"] = LATE

    for _ in range(12):
        rounds(ward, clock, 1)

    assert (("load", "pitch_router") not in triton.log) == waits


def test_a_model_loaded_anew_in_place_is_asked_as_it_is_now(ward, triton, clock):
    """Another file under the same version takes other rows: it is well, and is left alone."""
    triton.models["other"] = replace(triton.models["other"], inputs=(WIDE,))

    assert not rounds(ward, clock, 30)
    assert ward.ready
    assert triton.log == []


@pytest.mark.parametrize(("inputs", "version"), [((FRAME, MORE), "1"), ((FRAME,), "2")])
def test_what_another_model_answered_proves_nothing(ward, triton, clock, inputs, version):
    """Exchanged for one that refuses zeros: like one that was never asked, it is left alone."""
    triton.models["other"] = replace(triton.models["other"], inputs=inputs)
    triton.versions["other"] = [version]
    triton.faults["other"] = WRONG

    assert not rounds(ward, clock, 30)
    assert state(ward, "other") == "loaded, not checked"
    assert triton.log == []


def test_a_model_that_needs_long_for_a_row_is_left_alone(triton, clock):
    """No canary is ever answered in time; that it works shows in what it has done, now and then."""
    triton.models["other"] = Known(name="other", batches=True, inputs=(FRAME,))
    triton.faults["other"] = LATE
    ward = Ward(triton, [].append, clock=clock)
    for minute in range(20):
        triton.work["other"] = minute
        assert not rounds(ward, clock, 20)
    assert triton.log == []


def test_a_model_that_hangs_from_its_first_row_on_is_revived(triton, clock):
    """It has done nothing for minutes."""
    triton.faults["pitch_large"] = LATE
    ward = Ward(triton, [].append, clock=clock)

    assert not rounds(ward, clock, 59)
    assert not ward.ready
    assert rounds(ward, clock, 3)
    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]


def test_a_model_without_a_canary_is_ready_again_once_it_is_loaded(ward, triton, clock):
    """Someone's load of it failed once, and the next did not: the index alone tells of it."""
    triton.unloaded["words"] = "no such file"
    rounds(ward, clock, 1)
    assert not ward.ready

    triton.unloaded.clear()
    rounds(ward, clock, 1)

    assert ward.ready
    assert triton.log == []


def test_an_unload_under_way_is_not_taken_for_a_failed_load(ward, triton, clock):
    """One version is gone, the other has requests to finish: someone took the model away."""
    triton.unloaded["other"] = "unloaded"
    triton.versions["other"] = ["2"]
    index = triton.index
    busy = Version(model="other", version="1", state="UNLOADING", reason="")
    triton.index = lambda: [busy, *index()]

    assert not rounds(ward, clock, 30)
    assert state(ward, "other") == "unloaded"
    assert triton.log == []


def test_what_someone_unloads_meanwhile_is_not_loaded(ward, triton, clock):
    """A revival takes a while, in which others may take their models away."""
    triton.faults["pitch_router"] = dead("pitch_router")
    load = triton.load

    def load_slowly(models, timeout_s):
        triton.unloaded["other"] = "unloaded"
        return load(models, timeout_s)

    triton.load = load_slowly

    assert rounds(ward, clock, 4)
    assert triton.log == [("unload", "pitch_router"), ("load", "pitch_router")]
    assert state(ward, "other") == "unloaded"


def test_a_server_too_busy_to_tell_gets_no_other_model_loaded(ward, triton, clock):
    """Loading takes whatever lies on the disk by then, which may be half of someone's work."""
    triton.faults["pitch_large"] = dead("pitch_large")
    load, index, late = triton.load, triton.index, []

    def load_slowly(models, timeout_s):
        late.append("Deadline Exceeded")
        return load(models, timeout_s)

    triton.load = load_slowly
    triton.index = lambda: late.pop() if late else index()

    assert rounds(ward, clock, 4)
    assert triton.log == [("unload", "pitch_large"), ("load", "pitch_large")]
