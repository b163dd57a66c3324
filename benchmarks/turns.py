"""Candidates under load, one after the other, in several rounds.

A machine's speed drifts, so candidates take turns and the order rotates from round to round. A
candidate that brings processes of its own has them only while it is its turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from cascade_client.bench import Candidate, Load, Records, generate, run_precisely
from cascade_client.calls import Port
from cascade_client.summary import Summary, median, summarise
from cascade_client.transport import connect_load

from .peers import Loadable

__all__ = ["Entrant", "Turns", "served", "spread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One candidate.

    Attributes:
        name: What tables call it.
        open: Starts what it needs and stops it in the end.
        load: How it is loaded; None: as all are.
    """

    name: str
    open: Callable[[], AbstractContextManager[Loadable]]
    load: Load | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What the candidates did.

    Attributes:
        rounds: A summary per round, by candidate.
    """

    rounds: Mapping[str, Sequence[Summary]]

    @classmethod
    def take(
        cls,
        entrants: Sequence[Entrant],
        rows: Sequence[Any],
        load: Load,
        n_rounds: int,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Turns:
        """Load each candidate in each round.

        Args:
            entrants: Candidates with distinct names.
            rows: Input rows of all of them.
            load: Of those that have none of their own.
            n_rounds: At least 1.
            tell: Takes progress.
        """
        rounds: dict[str, list[Summary]] = {one.name: [] for one in entrants}
        for i in range(n_rounds):
            for j in range(len(entrants)):
                one = entrants[(i + j) % len(entrants)]
                with one.open() as loadable:
                    records = run_precisely(_turn(loadable, rows, one.load or load))
                rounds[one.name].append(summary := summarise(records))
                tell(f"round {i + 1}: {one.name} {summary.rows_per_s:.0f} rows/s")
        return cls(rounds=rounds)

    def median(self, name: str) -> Summary:
        """Give a candidate's medians."""
        return median(self.rounds[name])

    def rows_per_s(self, name: str) -> float:
        """Give a candidate's median throughput."""
        return self.median(name).rows_per_s

    def as_json(self) -> list[dict[str, Any]]:
        """Write for machines: medians and rounds of each candidate."""
        return [
            {"name": name, **median(rounds).as_json(), "rounds": [r.as_json() for r in rounds]}
            for name, rounds in self.rounds.items()
        ]


def served(
    name: str,
    url: str,
    model: str,
    port: Port,
    *,
    parameters: Mapping[str, bool | int | float | str] | None = None,
    logits: str | None = None,
    load: Load | None = None,
) -> Entrant:
    """Describe a candidate that a running Triton serves.

    Args:
        name: What tables call it.
        url: gRPC address.
        model: Triton's model.
        port: Its input.
        parameters: Sent with every request.
        logits: Output to take the label from; None: it answers as a cascade does.
        load: How it is loaded; None: as all are.
    """
    candidate = Candidate(
        name=name, model=model, port=port, parameters=parameters or {}, logits=logits
    )

    @contextmanager
    def opened() -> Iterator[Loadable]:
        yield Loadable(candidate=candidate, connect=lambda: connect_load(url))

    return Entrant(name=name, open=opened, load=load)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Give smallest, median and largest of some figures."""
    return {
        "low": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "high": round(max(values), 4),
    }


async def _turn(loadable: Loadable, rows: Sequence[Any], load: Load) -> Records:
    transport = loadable.connect()
    try:
        return await generate(transport, loadable.candidate, rows, load)
    finally:
        await transport.close()
