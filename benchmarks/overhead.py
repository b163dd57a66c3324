"""What the router costs: null experts through ours, through what users do today, and directly."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cascade_builder import layout, repository, triton_config
from cascade_builder.spec import Router
from cascade_client import CascadeClient
from cascade_client.bench import Candidate, Load
from cascade_client.calls import AsyncTransport
from cascade_client.perf_analyzer import PerfAnalyzer
from cascade_client.transport import connect_async, connect_load
from cascade_router.serve import Server, free_ports

from . import null
from .peers import Loadable, PerRequestBls, Setup
from .peers.client_cascade import CascadingTransport
from .turns import Entrant, Turns, served, spread

__all__ = ["CANDIDATES", "SETTINGS", "measure"]

CANDIDATES = {
    "direct": "null_t0",
    "four outputs": "null_answer",
    "ours": "null_router",
    "ours, every tier by BLS": "null_by_bls_router",
    "per-request BLS": "null_per_request_bls",
}
"""Models by what tables call them. ``four outputs`` decides nothing and answers as a cascade does:
what any Python router with these outputs costs at the least."""

SETTINGS = [(64, 0.0), (64, 0.3), (64, 0.7), (64, 1.0), (32, 0.0), (32, 0.3), (1, 0.0), (1, 1.0)]
"""Requests at once, and share of rows that escalate."""

_ANSWER = '''"""Answers as a cascade does, without deciding anything."""

import numpy as np

from .cascade_router.triton_io import respond_stacked


class TritonPythonModel:
    def execute(self, requests):
        return respond_stacked(requests, "X", self.answers)

    def answers(self, rows):
        zeros = np.zeros((len(rows), 1), dtype=np.int32)
        ones = np.ones((len(rows), 1), dtype=np.float32)
        return {"SCORES": rows, "LABEL": zeros, "CONFIDENCE": ones, "TIER": zeros}
'''


def measure(
    *,
    settings: Sequence[tuple[int, float]] = SETTINGS,
    repeats: int = 5,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Load every candidate under every setting, in turns.

    Returns:
        ``overhead``: an entry per setting, by perf_analyzer, with the medians over the repeats
        (requests per second, p50 ms), all repeats, and ratios taken repeat by repeat.
        ``client_side``: ours beside the client-side cascade, by our own load generator, since
        perf_analyzer cannot walk. ``generator``: how our load generator compares with it.
    """
    with tempfile.TemporaryDirectory(prefix="null-") as scratch:
        folder = Path(scratch) / "models"
        setup = _lay_out(folder, Path(scratch))
        log = Path("build/null-server.log")
        with Server(repository=folder, ports=free_ports(), log=log) as server:
            with CascadeClient(server.grpc_url, "null") as client:
                client.wait_ready(60)
            setup = replace(setup, url=server.grpc_url)
            entries = [_setting(server.grpc_url, *one, repeats, tell) for one in settings]
            client_side, generator = _client_side(setup, repeats, tell)
    return {"overhead": entries, "client_side": client_side, "generator": generator}


def _lay_out(folder: Path, scratch: Path) -> Setup:
    cascade = null.spec()
    null.write(folder, cascade, scratch)
    by_bls = null.spec(name="null_by_bls", router=Router(runs_first_expert=False))
    null.write(folder, by_bls, scratch)
    config = triton_config.router_config(cascade)
    config.name = "null_answer"
    files: dict[str, bytes | Path] = {
        "config.pbtxt": triton_config.text(config).encode(),
        "1/model.py": _ANSWER.encode(),
        **{f"1/cascade_router/{name}": data for name, data in layout.core_files().items()},
    }
    model = layout.Model(name=config.name, files=files)
    repository.apply(folder, repository.Change(owner=model.name, write=[model]))
    setup = Setup.read(folder, "null")
    PerRequestBls().lay_out(setup)
    return setup


def _setting(
    url: str, concurrency: int, share: float, repeats: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    perf = PerfAnalyzer.find()
    data = _data(share)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CANDIDATES}
    names = list(CANDIDATES)
    for i in range(repeats):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            got = perf.measure(CANDIDATES[name], url, data, concurrency=concurrency, window_ms=700)
            runs[name].append({"rows_per_s": got.rows_per_s, "p50_ms": got.p50_ms})
    entry = _entry(concurrency, share, runs)
    ratios = {name: one["median"] for name, one in entry["ours_to"].items()}
    tell(f"{concurrency} at once, {share:.0%} escalating: ours to the others {ratios}")
    return entry


def _entry(
    concurrency: int, share: float, runs: dict[str, list[dict[str, float]]]
) -> dict[str, Any]:
    def median(name: str, key: str) -> float:
        return round(statistics.median(run[key] for run in runs[name]), 3)

    n_tiers_run = 1 + share
    return {
        "concurrency": concurrency,
        "escalating": share,
        "median": {n: {k: median(n, k) for k in ("rows_per_s", "p50_ms")} for n in runs},
        "ours_to": {
            name: spread(
                [
                    ours["rows_per_s"] / other["rows_per_s"]
                    for ours, other in zip(runs["ours"], runs[name], strict=True)
                ]
            )
            for name in runs
            if name != "ours"
        },
        "added_p50_per_tier_in_direct_p50s": spread(
            [
                (ours["p50_ms"] - direct["p50_ms"]) / n_tiers_run / direct["p50_ms"]
                for ours, direct in zip(runs["ours"], runs["direct"], strict=True)
            ]
        ),
        "runs": runs,
    }


def _client_side(
    setup: Setup, repeats: int, tell: Callable[[str], None]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare with the client-side cascade, and the generators with each other.

    Each pair is loaded through the same client: tritonclient's asynchronous one, which users have,
    and our load generator's, which costs the cores less than any of theirs.
    """
    url = setup.url
    assert url is not None
    ours = setup.candidate("ours", "null_router")
    clients = {"tritonclient": connect_async, "load generator": connect_load}
    entrants = [served("direct", url, "null_t0", setup.port, logits="LOGITS")]
    for name, connect in clients.items():
        entrants += [
            _entrant(f"ours by {name}", ours, partial(connect, url)),
            _entrant(f"client-side by {name}", ours, partial(_cascading, connect, setup)),
        ]
    load = Load(concurrency=64, seconds=2.5, warmup_s=0.5)
    turns = Turns.take(entrants, null.traffic(0.3), load, repeats, tell)
    client_side = {
        "concurrency": 64,
        "escalating": 0.3,
        "ours_to_client_side": {
            name: spread(_ratios(turns, f"ours by {name}", f"client-side by {name}"))
            for name in clients
        },
        "candidates": turns.as_json(),
    }
    perf, data = PerfAnalyzer.find(), _data(0.3)
    theirs = [
        perf.measure("null_t0", url, data, concurrency=64, window_ms=700).rows_per_s
        for _ in range(repeats)
    ]
    own = [one.rows_per_s for one in turns.rounds["direct"]]
    generator = {
        "rows_per_s": spread(own),
        "perf_analyzer_rows_per_s": spread(theirs),
        "to_perf_analyzer": round(statistics.median(own) / statistics.median(theirs), 3),
    }
    return client_side, generator


def _entrant(name: str, candidate: Candidate, connect: Callable[[], AsyncTransport]) -> Entrant:
    loadable = Loadable(candidate=candidate, connect=connect)
    return Entrant(name=name, open=lambda: nullcontext(loadable))


def _cascading(connect: Callable[[str], AsyncTransport], setup: Setup) -> AsyncTransport:
    assert setup.url is not None
    return CascadingTransport(connect(setup.url), setup)


def _ratios(turns: Turns, one: str, other: str) -> list[float]:
    pairs = zip(turns.rounds[one], turns.rounds[other], strict=True)
    return [a.rows_per_s / b.rows_per_s for a, b in pairs]


def _data(share: float) -> list[dict[str, Any]]:
    return [
        {"X": {"content": [float(v) for v in row], "shape": [len(row)]}}
        for row in null.traffic(share)
    ]


if __name__ == "__main__":
    for entry in measure(repeats=1)["overhead"]:
        print({key: value for key, value in entry.items() if key != "runs"})
