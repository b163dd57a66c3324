"""The benchmark's figures on real data, in short."""

import importlib.util
from pathlib import Path

import pytest
from labelled import DATA, needs

pytestmark = [pytest.mark.slow, needs("pitch"), needs("clinc150"), needs("cifar10")]


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "policy_efficiency.py"
    spec = importlib.util.spec_from_file_location("policy_efficiency", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "title", ["pitch tiny -> medium -> full", "CLINC tf-idf -> L3 -> L6", "pitch tiny -> full"]
)
def test_more_of_the_saving_is_captured_than_usual(title):
    """At a wish of half a point: above the plain cascade that loses nothing where it was chosen."""
    bench = benchmark()
    row = bench.measure(dict(bench.cascades(DATA))[title], permutations=2)
    assert row["ours"]["efficiency"] > row["plain"]["efficiency"]
    assert row["ours"]["drop_points"] < row["plain, same wish"]["drop_points"]
