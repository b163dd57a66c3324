"""Real experts: the cascade against one model, against what users do today, and against the bound.

All take the same canonical rows (decoded pictures) at the same operating point: max probability
against the thresholds of the spec.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cascade_builder.build import build
from cascade_builder.rows import canonical
from cascade_builder.spec import Spec
from cascade_client import CascadeClient
from cascade_client.bench import Load
from cascade_client.summary import Summary
from cascade_router.serve import Server, free_ports

from .cascades import rows_of
from .peers import PEERS, Setup
from .turns import Entrant, Turns, served, spread

__all__ = ["measure"]

_SCRATCH = Path("build")
_ROWS = 400
"""Different rows that are sent."""

_SHARE_OF_CAPACITY = 0.6
"""Of the open loop, at which latencies are compared."""


def measure(
    cascade: str,
    data: Path,
    *,
    concurrency: int = 64,
    seconds: float = 6.0,
    rounds: int = 5,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Load all candidates in turns, saturated first, then at equal offered load.

    Args:
        cascade: A packaged spec.
        data: Folder with labelled data; where it is absent the bundled demo rows are used.
        concurrency: Requests under way at once when saturated.
        seconds: Of load per candidate and round.
        rounds: Turns of each candidate.
        tell: Takes progress.
    """
    spec = Spec.find(cascade)
    repository = _SCRATCH / f"model_repository-contest-{cascade}"
    # The thresholds of the spec, whatever was calibrated there before.
    shutil.rmtree(repository, ignore_errors=True)
    report = build(spec, repository)
    setup = Setup.read(repository, cascade)
    peers = [peer for peer in PEERS if peer.missing() is None]
    for peer in peers:
        peer.lay_out(setup)
    raw, what = rows_of(cascade, data, _ROWS)
    rows = list(canonical(raw, spec.input))
    log = _SCRATCH / f"{cascade}-contest.log"
    with Server(repository=repository, ports=free_ports(), log=log) as server:
        with CascadeClient(server.grpc_url, cascade) as client:
            client.wait_ready(120)
        setup = replace(setup, url=server.grpc_url)
        saturated = Turns.take(
            _saturated(setup, peers),
            rows,
            Load(concurrency=concurrency, seconds=seconds, warmup_s=1.5),
            rounds,
            tell,
        )
        rate = _SHARE_OF_CAPACITY * saturated.rows_per_s("ours")
        offered = Turns.take(
            _offered(setup),
            rows,
            Load(rate=rate, seconds=2 * seconds, warmup_s=1.5),
            rounds,
            tell,
        )
    costs = [expert.cost_ms for expert in report.experts]
    return {
        "cascade": cascade,
        "rows": f"{what}, {len(rows)} different ones, as canonical tensors",
        "concurrency": concurrency,
        "tiers": [expert.name for expert in spec.experts],
        "thresholds": list(setup.thresholds),
        "saturated": saturated.as_json(),
        "offered": {"rows_per_s": round(rate, 2), "candidates": offered.as_json()},
        "ratios": _ratios(saturated, offered, costs),
        "not_measured": {p.name: p.missing() for p in PEERS if p.missing() is not None},
    }


def _saturated(setup: Setup, peers: Sequence[Any]) -> list[Entrant]:
    router = f"{setup.cascade}_router"
    assert setup.url is not None
    return [
        served("ours", setup.url, router, setup.port),
        *_directs(setup),
        *(Entrant(name=peer.name, open=lambda peer=peer: peer.open(setup)) for peer in peers),
    ]


def _directs(setup: Setup) -> list[Entrant]:
    """Call each expert by itself: how fast the machine runs it is what the bound is made of."""
    assert setup.url is not None
    return [
        served(f"direct tier {k}", setup.url, tier.model, setup.port, logits="LOGITS")
        for k, tier in enumerate(setup.tiers)
    ]


def _offered(setup: Setup) -> list[Entrant]:
    """At this operating point every row runs tier 0, so its rate there is the rate of all rows."""
    client = next(peer for peer in PEERS if peer.name == "client_cascade")
    assert setup.url is not None
    return [
        served("ours", setup.url, f"{setup.cascade}_router", setup.port),
        Entrant(name=client.name, open=lambda: client.open(setup)),
        _directs(setup)[0],
    ]


def _ratios(
    saturated: Turns, offered: Turns, costs: Sequence[dict[int, float]]
) -> dict[str, dict[str, float]]:
    """Compare round by round, so that a drift of the machine falls out."""
    rounds = [
        _of_round({name: many[i] for name, many in saturated.rounds.items()}, costs)
        for i in range(len(saturated.rounds["ours"]))
    ]
    out = {key: spread([one[key] for one in rounds]) for key in rounds[0]}
    pairs = list(zip(*(offered.rounds[n] for n in offered.rounds), strict=True))
    out["p50 of tier-0 exits to a direct call of tier 0"] = spread(
        [ours.tier_p50_ms[0] / direct.p50_ms for ours, _, direct in pairs]
    )
    out["p99 to client_cascade"] = spread([ours.p99_ms / other.p99_ms for ours, other, _ in pairs])
    return out


def _of_round(now: dict[str, Summary], costs: Sequence[dict[int, float]]) -> dict[str, float]:
    ours = now["ours"]
    shares = np.array([ours.tier_share.get(k, 0.0) for k in range(len(costs))])
    reach = shares[::-1].cumsum()[::-1]
    direct_s = [1 / now[f"direct tier {k}"].rows_per_s for k in range(len(costs))]
    bound = 1 / float(reach @ direct_s)
    largest = now[f"direct tier {len(costs) - 1}"].rows_per_s
    per_row = np.array([cost[max(cost)] / max(cost) for cost in costs])
    promised = per_row[-1] / float(reach @ per_row)
    compared = [n for n in now if n != "ours" and not n.startswith("direct tier")]
    return {
        "ideal bound": ours.rows_per_s / bound,
        "largest expert": ours.rows_per_s / largest,
        "what the cost promises over the largest": ours.rows_per_s / largest / promised,
        **{name: ours.rows_per_s / now[name].rows_per_s for name in compared},
    }
