"""Canaries fit what a model takes, are small, and are left out where none can be made."""

import io

import numpy as np
import pytest
from fake_supervised import COMMAND, FRAME
from PIL import Image

from cascade_router.images import pixels_from_bytes
from cascade_router.supervision.canary import ask_model, ask_tier, cascades_of, shown
from cascade_router.supervision.triton import Known, Outcome, Port, Reply, _failed


def known(*ports, batches=True, **more):
    return Known(name="m", batches=batches, inputs=ports, **more)


def test_a_tensor_is_a_row_of_zeros():
    """With a batch dimension where the model has one; sides that are free are one long."""
    ports = (FRAME, Port(name="MORE", datatype="UINT8", shape=(-1, 3)))

    arrays = ask_model(known(*ports)).arrays

    assert {name: (a.shape, a.dtype.name) for name, a in arrays.items()} == {
        "FRAME": ((1, 4), "float32"),
        "MORE": ((1, 1, 3), "uint8"),
    }
    assert ask_model(known(FRAME, batches=False)).arrays["FRAME"].shape == (4,)
    assert not arrays["FRAME"].any()


def test_a_picture_is_a_picture():
    """One that the preprocessing model decodes."""
    (array,) = ask_model(known(Port(name="IMAGE", datatype="STRING", shape=(1,)))).arrays.values()

    assert Image.open(io.BytesIO(array[0, 0])).size == (8, 8)
    np.testing.assert_array_equal(pixels_from_bytes(array[0, 0], 4), 128)


@pytest.mark.parametrize(
    "model",
    [
        known(),
        known(FRAME, plain=False),
        known(Port(name="PROMPT", datatype="STRING", shape=(1,))),
        known(Port(name="X", datatype="FP32", shape=(10_000, 10_000))),
        known(Port(name="X", datatype="BF16", shape=(1,))),
    ],
)
def test_where_none_can_be_made_none_is(model):
    """Sequences, unknown texts and types, rows that would be a load of their own."""
    assert ask_model(model) is None
    assert ask_tier(model, 0) is None


def test_cascades_are_found_by_their_names():
    """Entered by the ensemble, or by the router where there is none."""
    names = ("a", "a_router", "a_control", "b_router", "b_control", "c", "d_router")
    found = {n: Known(name=n, batches=True, inputs=(FRAME,)) for n in names}

    assert {cascade: k.name for cascade, k in cascades_of(found).items()} == {
        "a": "a",
        "b": "b_router",
    }


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"\0\0\0\0", b"\4\0\0\0null", b"\2\0\0\0{}", b"\1\0\0\0["),
        b'\0\0\0\0{"policy": {"tiers": []}, "manifest": []}',
    ],
)
def test_a_control_model_that_tells_nonsense_names_no_tiers(raw):
    """A supervisor must not fall over what it looks after."""
    told = shown("a", Reply(outcome=Outcome.ANSWERED, outputs={"REPLY": raw}))

    assert (told.tiers, told.in_force) == ((), {})


def test_the_control_model_is_asked_for_its_policy():
    """As its canary: it changes nothing."""
    assert ask_model(known(COMMAND, batches=False)).arrays["COMMAND"][0] == b'{"do": "show"}'


@pytest.mark.parametrize(
    ("code", "text", "outcome", "culprit"),
    [
        ("INTERNAL", "Stub process 'a_b_0_1' is not healthy.", Outcome.DEAD, "a_b"),
        (
            "UNAVAILABLE",
            "in ensemble 'p', tier 'm' (model p_m) failed: Stub process 'p_m_0_0' is not healthy.",
            Outcome.DEAD,
            "p_m",
        ),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Outcome.LATE, ""),
        ("UNAVAILABLE", "Exceeds maximum queue size", Outcome.BUSY, ""),
        ("UNAVAILABLE", "tier 1: queue full, 256 rows may wait", Outcome.BUSY, ""),
        ("INTERNAL", "CUDA error\nand more", Outcome.FAILED, ""),
    ],
)
def test_failures_are_told_apart(code, text, outcome, culprit):
    """By the words of server 2.51, which gives most of them one code."""
    reply = _failed(code, text)

    assert (reply.outcome, reply.culprit) == (outcome, culprit)
