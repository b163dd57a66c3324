"""Policy efficiency on six real cascades: `python -m benchmarks.policy_efficiency`.

Efficiency is the share of the oracle gate's saving that is captured: (1 - cost) / (1 - oracle's
cost), with the last tier's cost as 1 and multiply-adds for costs. Everything is chosen on one half
of the rows, with a drop of at most half a point as the wish, and measured on the other half. Ten
permutations, each half once in either role: 20 splits. *plain* is what is usually done: largest
probability, the cheapest grid point that loses nothing on the rows it was chosen on. Its drop on
fresh rows is what it really loses; compare efficiencies at the drops shown beside them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cascade_builder.calibrate import choose
from cascade_builder.cost_tables import Costs
from cascade_builder.pool import EXACT, Search
from cascade_builder.records import Records, Split, TierRecord
from cascade_builder.replay import View, replay
from cascade_builder.scored import Scored
from cascade_builder.selection import plain
from cascade_builder.verdict import oracle
from cascade_router.policy import Tier

from .prepare_pitch import UNCLEAR
from .provenance import save

DATA = Path(__file__).parents[2] / "shared" / "data"

WISH = 0.005
"""Drop allowed."""


LOWEST_CENTS = 1997.3794084376191
"""Pitch of the first of the 360 bins, which are 20 cents apart."""


def records_of(
    name: str, logits: list, costs: list, labels: object, activation: str, tolerance: int = 0
) -> Records:
    """Put arrays into records; cost is relative to the last tier."""
    tiers = tuple(
        TierRecord(
            name=f"tier{k}",
            model=f"{name}_tier{k}",
            digest="sha256:unknown",
            logits=z,
            cost_ms={1: float(costs[k]) / float(costs[-1])},
        )
        for k, z in enumerate(logits)
    )
    labels = np.asarray(labels, dtype=np.int64)
    return Records(
        cascade=name,
        activation=activation,
        n_classes=logits[0].shape[1],
        tiers=tiers,
        ids=np.arange(len(labels)),
        labels=labels,
        label_tolerance=tolerance,
    )


def cascades(data: Path) -> Iterator[tuple[str, Records]]:
    """Read the six cascades."""
    z = np.load(data / "imagenet_val1300" / "logits_lite.npz")
    for title, names in (
        ("lite0 -> lite2", ["lite0@224", "lite2@260"]),
        ("lite0@160 -> lite0 -> lite2", ["lite0@160", "lite0@224", "lite2@260"]),
    ):
        logits = [z[f"val1300_{n}"] for n in names]
        costs = [z[f"{n}_macs"] for n in names]
        yield title, records_of("imagenet", logits, costs, z["val1300_y"], "softmax")
    z = np.load(data / "cifar10" / "logits_5experts.npz")
    logits = [z[n] for n in ("mlperf_resnet8", "resnet20", "resnet56")]
    # Millions of multiply-adds: MLPerf Tiny's ResNet-8, and He et al. 2016 for 20 and 56 layers.
    yield (
        "CIFAR ResNet-8 -> 20 -> 56",
        records_of("cifar", logits, [12.5, 40.8, 125.5], z["y"], "softmax"),
    )
    z = np.load(data / "pitch" / "logits_5experts.npz")
    clean = ~np.isin(z["prog"], UNCLEAR)
    bins = np.round((z["true_cents"][clean] - LOWEST_CENTS) / 20)
    macs = dict(zip(["tiny", "small", "medium", "large", "full"], z["macs"], strict=True))
    for names in (["tiny", "full"], ["tiny", "medium", "full"]):
        logits = [z[n][clean] for n in names]
        costs = [macs[n] for n in names]
        yield (
            f"pitch {' -> '.join(names)}",
            records_of("pitch", logits, costs, bins, "sigmoid", tolerance=2),
        )
    z = np.load(data / "clinc150" / "probs_3experts.npz")
    logits = [
        np.log(np.maximum(z[f"test_{n}"].astype(np.float32), 1e-7)) for n in ("tfidf", "L3", "L6")
    ]
    # Half of the layers at the same width; a sparse linear model next to nothing.
    yield "CLINC tf-idf -> L3 -> L6", records_of("clinc", logits, [0.01, 0.5, 1], z["y"], "softmax")


def measure(records: Records, permutations: int) -> dict[str, object]:
    """Choose on one half, measure on the other, both ways."""
    scored = Scored(records, with_labels=True)
    tiers = [
        Tier(name=t.name, model=t.model, digest=t.digest, cost_ms=t.cost_ms) for t in records.tiers
    ]
    costs, n = Costs.of(tiers, 1.0), len(records)
    rows: dict[str, list[tuple[float, float]]] = {"plain": [], "plain, same wish": [], "ours": []}
    readings: dict[str, int] = {}
    for seed in range(permutations):
        order = np.random.default_rng(seed).permutation(n)
        for half, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            held = np.sort(other)
            cut = int(0.4 * len(half))
            split = Split(fit=np.sort(half[:cut]), choose=np.sort(half[cut:]), check=held)
            choice = choose(scored, costs, split, WISH, seed)
            readings[choice.view.reading.name] = readings.get(choice.view.reading.name, 0) + 1
            pool = choice.search.pool(choice.view, costs)
            view = View(scored=scored, reading=plain(len(records.tiers)), rows=np.sort(half))
            usual = Search(EXACT, choice.search.among).pool(view, costs)
            best = 1 - oracle(view.at(held), costs)[0]
            for name, seen, points, drop in (
                ("plain", view, usual, 0.0),
                ("plain, same wish", view, usual, WISH),
                ("ours", choice.view, pool, WISH - choice.luck),
            ):
                rest = seen.at(held)
                done = replay(rest, points.gates[points.cheapest(drop)], costs)
                lost = float(rest.reference.mean() - done.right.mean())
                rows[name].append(((1 - done.cost_ms) / best, 100 * lost))
    out: dict[str, object] = {"readings": readings}
    for name, pairs in rows.items():
        values = np.array(pairs)
        # The two directions of a permutation are one observation.
        pairwise = values.reshape(permutations, 2, 2).mean(axis=1)
        error = pairwise.std(axis=0, ddof=1) / np.sqrt(permutations)
        out[name] = {
            "efficiency": float(values[:, 0].mean()),
            "error": float(error[0]),
            "drop_points": float(values[:, 1].mean()),
            "drop_error": float(error[1]),
        }
    return out


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--permutations", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/")
    asked = parser.parse_args()
    if not asked.data.exists():
        parser.error(f"--data: {asked.data} is not there; the labelled data is not published")
    table = {}
    names = ("plain", "plain, same wish", "ours")
    if not asked.json:
        print(f"{'efficiency (drop in points)':30}" + "".join(f"{n:>30}" for n in names))
    for title, records in cascades(asked.data):
        table[title] = row = measure(records, asked.permutations)
        if not asked.json:
            cells = [
                "{efficiency:.3f}±{error:.3f} ({drop_points:+.2f}±{drop_error:.2f})".format(
                    **row[n]
                )
                for n in names
            ]
            print(f"{title:30}" + "".join(f"{c:>30}" for c in cells), flush=True)
    means = {n: float(np.mean([row[n]["efficiency"] for row in table.values()])) for n in names}
    if asked.save:
        save("policy-efficiency", {"cascades": table, "mean": means})
    if asked.json:
        print(json.dumps({"cascades": table, "mean": means}))
        return
    print(f"{'mean':30}" + "".join(f"{means[n]:>30.3f}" for n in names))


if __name__ == "__main__":
    main()
