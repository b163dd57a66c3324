"""The runner of engines, as far as a machine without a GPU gets."""

import pytest

from cascade_router.errors import PolicyError, TierError
from cascade_router.tensorrt_expert import device, profile_for, runner


@pytest.mark.parametrize(
    ("rows", "profiles", "chosen"),
    [
        (1, [(1, 16, 32)], 0),
        (32, [(1, 16, 32)], 0),
        (4, [(1, 1, 4), (1, 8, 32)], 0),
        (5, [(1, 1, 4), (1, 8, 32)], 1),
        (4, [(1, 1, 32), (4, 5, 32)], 1),
    ],
)
def test_a_batch_runs_at_the_profile_tuned_nearest_to_it(rows, profiles, chosen):
    """Among those that take so many rows at all."""
    assert profile_for(rows, profiles) == chosen


def test_a_batch_that_no_profile_takes_is_refused():
    """The engine would fail with a riddle."""
    with pytest.raises(TierError, match="no profile of the engine takes 33 rows"):
        profile_for(33, [(1, 16, 32), (1, 1, 8)])


@pytest.mark.parametrize(
    ("number", "visible", "named"),
    [
        ("0", None, "0"),
        ("1", "", "1"),
        ("0", "3", "3"),
        ("1", "4, 7", "7"),
        ("1", "GPU-a,GPU-b", "GPU-b"),
    ],
)
def test_an_instance_gets_the_gpu_that_triton_means(number, visible, named):
    """Triton counts what the server sees; the instance's process must see that one alone."""
    assert device(number, visible) == named


@pytest.mark.parametrize("data", [b"", b"no engine" * 100])
def test_what_is_no_engine_is_refused_when_it_is_opened(data, tmp_path, capfd):
    """As a policy error: the model does not load, and says why."""
    pytest.importorskip("tensorrt_rtx", reason="the extra rtx is not installed")
    path = tmp_path / "model.plan"
    path.write_bytes(data)
    with pytest.raises(PolicyError, match=r"model\.plan: cannot be opened: ") as caught:
        runner(path)
    assert caught.value.hint == "build it for this GPU and this library"
