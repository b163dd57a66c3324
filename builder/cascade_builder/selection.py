"""Which reading is kept and how far a frontier may be trusted, both judged on held-out rows.

The cheapest of thousands of points that meets a target on the rows it was chosen on misses it on
fresh rows: it was picked for its luck. Cross-validation repeats the picking on part of the rows
and looks at the rest, so the aim can be corrected by what the luck was worth. Shapes: n rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cascade_router.scores import FEATURES, Floats, Score

from .cost_tables import Costs
from .learning import learned_from, temperature_from
from .pool import EXACT, SMOOTH, Pool, Search, Tiers
from .replay import Reading, View, replay
from .scored import Scored

__all__ = [
    "Trial",
    "folds",
    "luck",
    "optimism",
    "paired",
    "plain",
    "readings_from",
    "search_for",
    "select",
    "temperatures",
]

Rows = npt.NDArray[np.int64]

N_FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One candidate against the plain one.

    Attributes:
        name: Of the reading.
        gain: Mean gain in value per row, in shares of right answers; cost is charged at the price
            where the plain cascade meets the wish.
        error: Standard error of the gain (paired by row).
        kept: It is in use.
    """

    name: str
    gain: float
    error: float
    kept: bool


def plain(n_tiers: int) -> Reading:
    """Read every tier by its largest probability."""
    return Reading(scores=(Score(),) * n_tiers)


def folds(n: int, seed: int) -> Iterator[tuple[Rows, Rows]]:
    """Say (kept, held out) positions of every fold."""
    order = np.random.default_rng(seed).permutation(n)
    for held in np.array_split(order, N_FOLDS):
        inside = np.ones(n, dtype=bool)
        inside[held] = False
        yield np.flatnonzero(inside), np.sort(held)


def temperatures(scored: Scored, fit: Rows) -> list[float]:
    """Fit a temperature per tier; the last one has no teacher without labels and keeps 1."""
    records, truth, out = scored.records, scored.truth, []
    scores = [Score()] * scored.n_tiers
    rows = fit[:: max(len(fit) // 5000, 1)]  # one number needs no more
    for k, tier in enumerate(records.tiers):
        if not scored.with_labels and k == scored.n_tiers - 1:
            out.append(1.0)
            continue
        parts = [tier.block(slice(row, row + 1), records.n_classes) for row in rows.tolist()]
        logits = np.concatenate(parts) if parts else np.zeros((0, records.n_classes))
        right = scored.right([k], scores)[rows]
        out.append(temperature_from(logits, truth[rows], right, records.activation))
    return out


def readings_from(scored: Scored, fit: Rows, fitted: Sequence[float]) -> list[Reading]:
    """Make the readings worth a trial, simplest first.

    Args:
        scored: All rows.
        fit: Rows that learned scores are trained on.
        fitted: A temperature per tier.
    """
    n = scored.n_tiers
    answers = ["last", "mean"] if 1 < n <= 4 else ["last"]
    out = []
    for answer in answers:
        for kind, heated in itertools.product(FEATURES, [False, True]):
            if heated and kind == "logit_gap" and answer == "last":
                continue  # it does not look at the temperature
            heat = fitted if heated else [1.0] * n
            scores = tuple(Score(kind=kind, temperature=t) for t in heat)
            out.append(Reading(scores=scores, answer=answer))
        base = Reading(scores=tuple(Score(temperature=t) for t in fitted), answer=answer)
        out.append(learned_reading(scored, base, fit))
    return out


def learned_reading(scored: Scored, base: Reading, fit: Rows) -> Reading:
    """Learn per tier where the last tier would do no better than the answer given there."""
    n = scored.n_tiers
    end = scored.right(range(n), base.scores, base.answer)
    scores = []
    for k, score in enumerate(base.scores[:-1]):
        here = scored.right(range(k + 1), base.scores, base.answer)
        features = [f[fit] for f in scored.features(k, score.temperature)]
        learned = learned_from(features, (here | ~end)[fit])
        scores.append(replace(score, kind="learned", learned=learned))
    return replace(base, scores=(*scores, base.scores[-1]), trained=True)


def select(
    scored: Scored,
    readings: Sequence[Reading],
    costs: Costs,
    *,
    fit: Rows,
    choose: Rows,
    wish: float,
    seed: int,
    among: tuple[Tiers, ...],
) -> tuple[Reading, list[Trial]]:
    """Keep the plain reading unless another earns its place on held-out rows.

    Value is the share of right answers less cost, at prices around the one where the plain
    cascade meets the wish, so a reading is worth what it saves at equal quality. Of those that
    gain more than a standard error, the simplest within one of the best is kept.

    Args:
        scored: All rows.
        readings: The candidates, simplest first; the first is the plain one.
        costs: Tables of all tiers.
        fit: Rows the trained readings were trained on; those are judged on the others only.
        choose: Rows that judge all.
        wish: Drop around which it matters.
        seed: Of the folds.
        among: Sub-cascades to look at.

    Returns:
        The reading kept and every trial.
    """
    plain_reading = readings[0]
    rows = {False: np.sort(np.concatenate([fit, choose])), True: choose}
    base = View(scored=scored, reading=plain_reading, rows=rows[False])
    search = Search(SMOOTH, among)
    frontier = search.pool(base, costs)
    price = frontier.price_at(frontier.cheapest(wish))
    prices = [price / 2, price, price * 2]
    standard = {
        trained: held_out_value(base.at(rows[trained]), costs, prices, seed, search)
        for trained in {reading.trained for reading in readings}
    }
    trials = []
    for reading in readings[1:]:
        view = View(scored=scored, reading=reading, rows=rows[reading.trained])
        value = held_out_value(view, costs, prices, seed, search)
        gain, error = paired(value - standard[reading.trained])
        trials.append(Trial(name=reading.name, gain=gain, error=error, kept=False))
    earned = [i for i, trial in enumerate(trials) if trial.gain > trial.error]
    if not earned:
        return plain_reading, trials
    best = max(earned, key=lambda i: trials[i].gain)
    enough = trials[best].gain - trials[best].error
    kept = next(i for i in earned if trials[i].gain >= enough)
    trials[kept] = replace(trials[kept], kept=True)
    return readings[kept + 1], trials


def search_for(
    view: View, costs: Costs, wish: float, seed: int, among: tuple[Tiers, ...]
) -> tuple[Search, Trial]:
    """Search by the smooth path unless the exact grid gains more than a standard error."""
    smooth, exact = Search(SMOOTH, among), Search(EXACT, among)
    pool = smooth.pool(view, costs)
    price = pool.price_at(pool.cheapest(wish))
    prices = [price / 2, price, price * 2]
    usual = held_out_value(view, costs, prices, seed, smooth)
    gain, error = paired(held_out_value(view, costs, prices, seed, exact) - usual)
    kept = gain > error
    return (exact if kept else smooth), Trial(name=EXACT, gain=gain, error=error, kept=kept)


def held_out_value(
    view: View, costs: Costs, prices: Sequence[float], seed: int, search: Search
) -> Floats:
    """Value every row by points chosen on other rows, averaged over prices: (n,) float64."""
    out = np.zeros(len(view))
    for kept, held in folds(len(view), seed):
        pool, rest = search.quick(view.take(kept), costs, prices), view.take(held)
        for price in prices:
            done = replay(rest, pool.gates[pool.best(price)], costs)
            out[held] += (done.right - price * done.spent_ms) / len(prices)
    return out


def optimism(view: View, costs: Costs, wish: float, seed: int, search: Search) -> float:
    """Measure what points lose on fresh rows beyond what they lost on the rows chosen on.

    Picking is repeated on four fifths of the rows for a range of drops around the wish.

    Returns:
        Share of right answers, at least 0, to take off every drop asked for.
    """
    parts = [
        (search.pool(view.take(kept), costs), view.take(held))
        for kept, held in folds(len(view), seed)
    ]
    return luck(search.pool(view, costs), parts, costs, wish)


def luck(whole: Pool, parts: Sequence[tuple[Pool, View]], costs: Costs, wish: float) -> float:
    """Say what ``optimism`` does of frontiers found before.

    Args:
        whole: The frontier of all rows.
        parts: Per fold, the frontier of the rows kept and the rows held out.
        costs: Tables of all tiers.
        wish: Drop around which it matters.
    """
    aims = np.linspace(0.0, 2 * wish, 9)
    claimed = np.array([whole.drop[whole.cheapest(aim)] for aim in aims])
    lost = np.zeros(len(aims))
    for pool, rest in parts:
        reference = rest.reference.sum()
        for i, aim in enumerate(aims):
            lost[i] += reference - replay(rest, pool.gates[pool.cheapest(aim)], costs).right.sum()
    n = sum(len(rest) for _, rest in parts)
    return max(float((lost / max(n, 1) - claimed).mean()), 0.0)


def paired(difference: Floats) -> tuple[float, float]:
    """Give mean and standard error."""
    n = len(difference)
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
