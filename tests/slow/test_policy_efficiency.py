"""The benchmark's figures on real data, in short."""

import pytest
from benchmarks import policy_efficiency
from labelled import DATA, needs

pytestmark = [pytest.mark.slow, needs("pitch"), needs("clinc150"), needs("cifar10")]


@pytest.mark.parametrize(
    "title", ["pitch tiny -> medium -> full", "CLINC tf-idf -> L3 -> L6", "pitch tiny -> full"]
)
def test_more_of_the_saving_is_captured_than_usual(title):
    """At a wish of half a point: above the plain cascade that loses nothing where it was chosen."""
    records = dict(policy_efficiency.cascades(DATA))[title]

    row = policy_efficiency.measure(records, permutations=2)

    assert row["ours"]["efficiency"] > row["plain"]["efficiency"]
    assert row["ours"]["drop_points"] < row["plain, same wish"]["drop_points"]
