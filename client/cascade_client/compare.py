"""Several candidates under one load, side by side.

A machine's speed drifts. Candidates therefore take turns in several rounds, the order rotates
from round to round, and the median over the rounds is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cascade_router.errors import CascadeError
from cascade_router.policy import Policy

from .bench import Candidate, Labels, Load, Records, generate
from .calls import Array, AsyncTransport, ModelSpec
from .client import AsyncCascadeClient
from .conversation import infer_parameters
from .rows import read_rows
from .summary import Summary, agreement, median, summarise

__all__ = ["Comparison", "Result", "alone", "candidates_of", "compare", "labels_of", "measure"]

Progress = Callable[[int, int, str], None]
"""Told steps done, steps in all and what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One candidate's figures.

    Attributes:
        candidate: Which.
        summary: Medians over the rounds.
        rounds: The rounds.
        agreement: Share of rows labelled as the reference labels them; NaN: no reference.
    """

    candidate: Candidate
    summary: Summary
    rounds: tuple[Summary, ...]
    agreement: float

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return {
            "name": self.candidate.name,
            "model": self.candidate.model,
            "parameters": dict(self.candidate.parameters),
            "agreement": None if np.isnan(self.agreement) else round(self.agreement, 6),
            **self.summary.as_json(),
            "rounds": [summary.as_json() for summary in self.rounds],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The figures of all candidates.

    Attributes:
        load: What each was loaded with in each round.
        n_rows: Distinct input rows.
        results: In the order the candidates were given.
        reference: Name of what labels are compared with; None: nothing.
        tiers: Names of the experts, cheapest first.
    """

    load: Load
    n_rows: int
    results: tuple[Result, ...]
    reference: str | None
    tiers: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Write for machines."""
        return {
            "load": asdict(self.load),
            "distinct_rows": self.n_rows,
            "reference": self.reference,
            "tiers": list(self.tiers),
            "candidates": [result.as_json() for result in self.results],
        }


def alone(spec: ModelSpec, policy: Policy, tier: int, word: str) -> Candidate:
    """Let one tier answer every row, through the cascade's own door.

    Args:
        spec: The ensemble.
        policy: Names the tiers.
        tier: Which; -1 = the last.
        word: What it is, such as ``largest``.
    """
    tier %= len(policy.tiers)
    return Candidate(
        name=f"{word} alone ({policy.tiers[tier].name})",
        model=spec.name,
        port=spec.inputs[0],
        parameters=infer_parameters(min_tier=tier, max_tier=tier),
    )


def candidates_of(
    spec: ModelSpec, policy: Policy, points: Sequence[str], *, baselines: bool
) -> list[Candidate]:
    """List what to compare: operating points, then the largest and the smallest tier alone.

    Args:
        spec: The ensemble.
        policy: Names points and tiers.
        points: Operating points; empty: all, cheapest first.
        baselines: Add the largest and the smallest tier alone.

    Raises:
        RequestError: If a point is unknown.
    """
    for point in points:
        policy.index(point)
    chosen = [
        Candidate(
            name=point,
            model=spec.name,
            port=spec.inputs[0],
            parameters=infer_parameters(point=point),
        )
        for point in (points or policy.point_names)
    ]
    if baselines:
        chosen += [alone(spec, policy, -1, "largest"), alone(spec, policy, 0, "smallest")]
    return chosen


async def compare(
    transport: AsyncTransport,
    candidates: Sequence[Candidate],
    rows: Mapping[str, Sequence[Array]] | Sequence[Array],
    load: Load,
    *,
    n_rounds: int = 3,
    reference: Candidate | None = None,
    policy: Policy | None = None,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Load the server with each candidate in turn, several rounds long.

    Args:
        transport: Carries the requests.
        candidates: At least one.
        rows: Input rows, for all candidates or by model.
        load: The load of each candidate in each round.
        n_rounds: Rounds, at least 1.
        reference: Labels the rows that were sent, once each, after the measurement; None:
            labels are compared with nothing.
        policy: Says which labels count as the same; None: equal ones.
        progress: Told how far it is.

    Raises:
        CascadeError: If a candidate's first request fails.
    """
    taken: list[list[Records]] = [[] for _ in candidates]
    n_steps = n_rounds * len(candidates) + (reference is not None)
    for i in range(n_rounds):
        for j in range(len(candidates)):
            k = (i + j) % len(candidates)
            progress(i * len(candidates) + j, n_steps, f"round {i + 1}: {candidates[k].name}")
            own = _rows_for(candidates[k].model, rows)
            taken[k].append(await generate(transport, candidates[k], own, load))
    agreements = [float("nan")] * len(candidates)
    if reference is not None:
        progress(n_steps - 1, n_steps, f"labels of {reference.name}")
        seen = np.unique(np.concatenate([one.rows.ravel() for many in taken for one in many]))
        labels = await labels_of(
            transport, reference, _rows_for(reference.model, rows), seen.tolist(), load
        )
        same = np.equal if policy is None else policy.same
        agreements = [agreement(many, labels, same) for many in taken]
    results = []
    for candidate, many, agreed in zip(candidates, taken, agreements, strict=True):
        rounds = tuple(summarise(one) for one in many)
        results.append(
            Result(candidate=candidate, summary=median(rounds), rounds=rounds, agreement=agreed)
        )
    progress(n_steps, n_steps, "done")
    return Comparison(
        load=load,
        n_rows=len(_rows_for(candidates[0].model, rows)),
        results=tuple(results),
        reference=None if reference is None else reference.name,
        tiers=() if policy is None else tuple(tier.name for tier in policy.tiers),
    )


async def labels_of(
    transport: AsyncTransport,
    candidate: Candidate,
    rows: Sequence[Array],
    wanted: Sequence[int],
    load: Load,
) -> Labels:
    """Ask for the label of each wanted row once.

    Args:
        transport: Carries the requests.
        candidate: Who labels.
        rows: N input rows.
        wanted: Numbers of the rows to ask for.
        load: Its concurrency bounds the requests under way.

    Returns:
        (N,) int64; -1 where not asked for or refused.
    """
    labels = np.full(len(rows), -1, dtype=np.int64)
    left = iter(wanted)

    async def caller() -> None:
        for i in left:
            try:
                reply = await transport.send(candidate.call([rows[i]], load.timeout_s))
            except CascadeError:
                continue  # counted where it was measured
            labels[i] = candidate.read(reply)[1][0]

    await asyncio.gather(*(caller() for _ in range(load.concurrency)))
    return labels


def _rows_for(model: str, rows: Mapping[str, Sequence[Array]] | Sequence[Array]) -> Sequence[Array]:
    return rows[model] if isinstance(rows, Mapping) else rows


async def measure(
    url: str,
    cascade: str,
    *,
    paths: Sequence[Path] = (),
    n_random: int | None = None,
    points: Sequence[str] = (),
    models: Sequence[str] = (),
    baselines: bool = False,
    load: Load,
    n_rounds: int = 3,
    progress: Progress = lambda *_: None,
    transport: AsyncTransport | None = None,
) -> Comparison:
    """Compare what a server holds, by name.

    Args:
        url: The server.
        cascade: Name of the cascade.
        paths: Files and folders with input rows.
        n_random: Random rows instead of files.
        points: Operating points; empty: all, unless only ``models`` are asked for.
        models: Experts to load directly.
        baselines: Add the largest and the smallest tier alone.
        load: The load of each candidate in each round.
        n_rounds: Rounds.
        progress: Told how far it is.
        transport: Used instead of opening the url.

    Raises:
        CascadeError: If something asked for is not there, or a candidate's first request fails.
    """
    if transport is None:
        from .transport import connect_load

        transport = connect_load(url, timeout_s=load.timeout_s)
    async with AsyncCascadeClient(url, cascade, transport=transport) as client:
        candidates: list[Candidate] = []
        policy = None
        if points or baselines or not models:
            spec, policy = await client.spec(), (await client.policy()).policy
            candidates += candidates_of(spec, policy, points, baselines=baselines)
        candidates += [Candidate.expert(await client.spec(model)) for model in models]
        reference = None if policy is None else alone(await client.spec(), policy, -1, "largest")
        ports = {candidate.model: candidate.port for candidate in candidates}
        rows = {model: read_rows(paths, n_random, port, load.seed) for model, port in ports.items()}
        return await compare(
            transport,
            candidates,
            rows,
            load,
            n_rounds=n_rounds,
            reference=reference,
            policy=policy,
            progress=progress,
        )
