import itertools

import numpy as np
import pytest

from cascade_builder.cost import batch_sizes, check_order, measure
from cascade_router.errors import SpecError


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (12, [1, 2, 4, 8, 12]), (16, [1, 2, 4, 8, 16])]
)
def test_batch_sizes_double_up_to_the_largest(most: int, expected: list[int]) -> None:
    """The largest is always among them."""
    assert batch_sizes(most) == expected


def test_cost_is_the_median_of_the_runs_after_the_first() -> None:
    """One slow run does not count; neither does the warm-up; rows repeat to fill a batch."""
    # Each run reads the clock twice: runs take 1, 9, 2, 2 and 3 ms.
    ticks = iter([0, 1, 10, 19, 20, 22, 30, 32, 40, 43])
    seen = []
    costs = measure(
        {"only": lambda rows: seen.append(len(rows))},
        np.zeros((3, 2)),
        [4],
        budget_s=0.005,
        clock=lambda: next(ticks) / 1000,
    )
    assert costs == {"only": {4: 2.0}}
    assert seen == [4] * 6


def test_measuring_ends_when_its_time_is_spent() -> None:
    """Experts that take a second a batch take turns, and no more often than needed."""
    clock = itertools.count()
    runs = []
    experts = {name: lambda rows, name=name: runs.append((name, len(rows))) for name in "ab"}
    measure(experts, np.zeros((1, 1)), [1, 2], budget_s=1.0, clock=lambda: float(next(clock)))
    assert runs == [("a", 1), ("b", 1)] * 6 + [("a", 2), ("b", 2)] * 6


def test_tiers_out_of_order_are_refused_with_the_right_order() -> None:
    """The cheapest way of running each expert counts."""
    costs = {"big": {1: 9.0, 8: 64.0}, "small": {1: 10.0, 8: 8.0}}
    with pytest.raises(SpecError, match="tiers must be ordered cheap to costly") as caught:
        check_order(costs)
    assert caught.value.hint == "order the [[expert]] tables: small, big"


def test_noise_does_not_refuse_tiers_of_equal_cost() -> None:
    """A tenth less is within what two measurements of one expert differ by."""
    check_order({"a": {1: 1.0}, "b": {1: 0.9}, "c": {1: 5.0}})
