"""Faults of ours between tiers: the rows that met one end by it, the others have no part in it."""

from escalation_world import World

from cascade_router import TierError, Walk, escalation
from cascade_router.group import Group
from cascade_router.pace import Pace


def test_a_fault_of_ours_ends_its_own_rows_and_keeps_the_worker(monkeypatch):
    """Rows of other requests in the call are answered, and the tier is tried again."""
    world = World(workers=1)
    for _ in range(3):
        world.arrive(low=1, high=1)
    monkeypatch.setattr(Walk, "settle", failing_once(Walk.settle, ValueError("a shape")))
    world.begin(1)
    world.finish(0)

    told = [seen.told[0] for _, seen, _ in world.walks]
    assert [isinstance(one[0], TierError) for one in told] == [True, False, False]
    assert [len(one) for one in told] == [1, 1, 1]

    monkeypatch.setattr(escalation, "stack", failing_once(escalation.stack, MemoryError()))
    _, seen = world.arrive(low=1, high=1)
    world.begin(1)
    world.finish(0)
    assert "fault in the router" in str(seen.told[0][0])
    world.pass_time(1.0)
    _, seen = world.arrive(low=1, high=1)
    world.begin(1)
    world.finish(0)
    assert seen.told == [[None]]


def check_that_one_ended(world):
    """By the fault; the others as ever, and nobody twice."""
    world.settle()
    told = [error for _, seen, _ in world.walks for (error,) in seen.told]
    assert sum("fault in the router" in str(error) for error in told) == 1
    assert world.begin(1) is None
    world.arrive(low=1)
    assert world.begin(1) is not None  # its worker is not lost


def test_a_fault_on_the_way_to_the_next_tier_ends_one_group(monkeypatch):
    """No memory for a copy of its rows, say: the others of the call are passed on."""
    world = World(workers=1)
    for _ in range(3):
        world.arrive(low=1)
    world.begin(1)
    monkeypatch.setattr(Group, "part", failing_once(Group.part, MemoryError()))
    world.finish(0)

    check_that_one_ended(world)


def test_a_fault_at_a_deadline_ends_one_group(monkeypatch):
    """Those whose time is over at the same moment are let go, too."""
    world = World(workers=1)
    world.arrive(low=1)
    world.begin(1)
    for _ in range(2):
        world.arrive(low=1, until=1.0)
    monkeypatch.setattr(Walk, "cut_short", failing_once(Walk.cut_short, MemoryError()))
    world.pass_time(1.0)

    assert [len(seen.told[0]) for _, seen, _ in world.walks] == [0, 1, 1]
    check_that_one_ended(world)


def test_a_fault_before_a_call_ends_one_group_and_keeps_the_worker(monkeypatch):
    """The call begins with the others."""
    world = World(workers=1)
    for _ in range(3):
        world.arrive(low=1, until=5.0)
    monkeypatch.setattr(Pace, "expect_s", failing_once(Pace.expect_s, MemoryError()))

    assert len(world.begin(1).groups) == 2
    check_that_one_ended(world)


def failing_once(function, error):
    left = [error]

    def call(*args):
        if left:
            raise left.pop()
        return function(*args)

    return call
