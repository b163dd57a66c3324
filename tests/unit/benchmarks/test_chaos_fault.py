"""The books of a chaos run: what is counted, and what must be right though it is not."""

from benchmarks.chaos.fault import Tally
from benchmarks.chaos.judge import Kind
from benchmarks.chaos.traffic import Entry, Pace, Traffic


class Quiet:
    """A site whose log says nothing amiss."""

    def alarms(self):
        return []


def load(*entries):
    made = Traffic(["127.0.0.1:1"], "x", "X", [], Pace())
    made.entries += entries
    made.sent = len(entries)
    return made


RIGHT = Entry(0.0, 0.1, Kind.RIGHT)
WRONG = Entry(0.0, 0.2, Kind.WRONG, text="mixed up")


def full(n):
    return Entry(0.0, 0.3, Kind.REFUSED, text=f"tier {n}: queue full, {n} rows may wait")


def test_counts_and_latencies_are_those_of_all_loads_of_the_fault():
    """No load is forgotten, and refusals are counted by their sentence without its numbers."""
    report = Tally().report([load(RIGHT, full(1)), load(RIGHT, full(20))], Quiet())

    assert report.survived
    assert (report.counts["sent"], report.counts["right"], report.counts["refused"]) == (4, 2, 2)
    assert report.figures["refused_by"] == {"tier N: queue full, N rows may wait": 2}
    assert report.figures["latency_ms"]["longest"] == 100.0


def test_a_wrong_answer_breaks_in_whatever_load_it_is():
    """What is sent before and afterwards is not counted, but it must be right all the same."""
    for loads, aside in (
        ([load(WRONG), load(RIGHT)], []),
        ([load(RIGHT), load(WRONG)], []),
        ([load(RIGHT)], [load(RIGHT), load(WRONG)]),
    ):
        report = Tally().report(loads, Quiet(), aside=aside)

        assert report.broken == ["mixed up"]
        assert report.counts["sent"] == len(loads)


def test_books_that_do_not_balance_break():
    """A request that never ended is one that is missing."""
    lost = load(RIGHT)
    lost.sent += 1

    assert Tally().report([lost], Quiet()).broken == ["2 sent, 1 ended"]
