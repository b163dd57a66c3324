"""What a verdict says, in words and in figures for people. Nothing is computed from rows here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .verdict import Measured, Verdict
from .wish import LAST

__all__ = [
    "beaten_by",
    "change",
    "gain",
    "headline",
    "missing",
    "ms",
    "percent",
    "promise",
    "promise_in_words",
    "shown",
]

_MINUS = "\N{MINUS SIGN}"


def percent(share: float, digits: int = 1) -> str:
    """Write a share.

    Example:
        >>> percent(0.8231)
        '82.3 %'
    """
    return f"{100 * share:.{digits}f} %".replace("-", _MINUS)


def ms(value: float) -> str:
    """Write milliseconds to three digits or whole ones.

    Example:
        >>> [ms(x) for x in (0.01234, 1.163, 15.81, 1079.2)]
        ['0.0123', '1.16', '15.8', '1079']
    """
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(2 - math.floor(math.log10(value)), 0)}f}"


def change(points: float, *, sign: bool = True) -> str:
    """Write a difference of shares in percentage points.

    Example:
        >>> change(0.0026)
        '+0.3'
    """
    text = f"{100 * points:+.1f}" if sign else f"{100 * points:.1f}"
    text = text.replace("-", _MINUS)
    return "0.0" if text.strip(f"+{_MINUS}") == "0.0" else text


def shown(verdict: Verdict) -> Measured:
    """Pick the point that the verdict speaks of: the default, or the cheapest beside ``exact``."""
    points = {point.name: point for point in verdict.points}
    return points[verdict.default] if verdict.default != LAST else verdict.points[0]


def headline(verdict: Verdict) -> str:
    """Say in one sentence what is gained."""
    point, last = shown(verdict), verdict.singles[-1]
    if not verdict.cascade_pays:
        return f"Do not cascade: {verdict.reason.removeprefix('do not cascade. ')}."
    return (
        f"{percent(point.saving, 0)} cheaper than {last.name} alone, {_quality(verdict, point)}: "
        f"the point {point.name} takes {ms(point.cost_ms)} instead of {ms(last.cost_ms)} ms a row."
    )


def gain(verdict: Verdict) -> list[tuple[str, str]]:
    """Give the few figures that matter: a large one and what it is."""
    point, last = shown(verdict), verdict.singles[-1]
    best = max(point.exit_shares)
    tier = verdict.tiers[point.exit_shares.index(best)]
    bound = "none" if point.certificate is None else promise(point)
    level = "" if point.certificate is None else f" at level {percent(verdict.level, 0)}"
    return [
        (percent(point.saving, 0), f"cost saved against {last.name} alone"),
        (
            f"{change(-point.drop)} pp",
            f"{verdict.measure} against {last.name}, measured ({percent(point.quality)})",
        ),
        (bound, f"{verdict.measure} lost, promised{level}"),
        (percent(best, 0), f"of rows answered by {tier}"),
    ]


def promise(point: Measured) -> str:
    """Write the drop that is promised."""
    if point.certificate is None:
        return ""
    bound = float(point.certificate["bound"])
    if point.name == LAST:
        return "none lost"
    if bound >= 1:
        return "nothing"
    return f"\N{LESS-THAN OR EQUAL TO} {change(_no_better(bound), sign=False)} pp"


def promise_in_words(verdict: Verdict, point: Measured) -> str:
    """Spell a certificate out."""
    if point.certificate is None:
        return "Nothing is promised."
    stated, last = point.certificate, verdict.tiers[-1]
    if point.name == LAST:
        return f"Every row is answered by {last}, so nothing is lost against it."
    bound = _no_better(float(stated["bound"]))
    lost = f"at most {change(bound, sign=False)} percentage points below {last}'s"
    if bound < 0:
        lost = f"at least {change(-bound, sign=False)} percentage points above {last}'s"
    if verdict.measure == "agreement":
        subject = f"The answers differ from {last}'s on at most {percent(bound)} of rows"
    else:
        subject = f"The accuracy is {lost}"
    return (
        f"{subject}, for rows drawn like the recorded ones. "
        f"Evidence: of {stated['rows']} rows on which nothing was chosen, {stated['lost']} were "
        f"lost that {last} alone gets right and {stated['won']} were won. "
        f"Method: {stated['method']}; this point alone at level {stated['point_level']:.4g}, "
        f"all {stated['joint_with']} goals of the ladder together at level {stated['level']:.4g}."
    )


def missing(verdict: Verdict, refused: Mapping[str, Any]) -> str:
    """Say why a goal is not in the ladder, and what it would take."""
    text = (
        f"a drop of {change(refused['drop'], sign=False)} pp cannot be promised on "
        f"{refused['check_rows']} check rows; best: {100 * refused['best']:.2f} pp"
    )
    needed = refused["rows_needed"]
    if needed is None:
        return f"{text}; more rows like these would not do"
    if needed <= refused["check_rows"]:
        return f"{text}; close: as many rows again would probably do"
    total = round(needed * sum(verdict.rows.values()) / verdict.rows["check"])
    return f"{text}; about {needed} check rows would do ({total} in all)"


def beaten_by(verdict: Verdict, point: Measured) -> Measured | None:
    """Find the best expert that alone is as good for no more; None for an expert alone itself."""
    alone = [one for one in verdict.singles if one.exit_shares == point.exit_shares]
    if alone and alone[0].cost_ms == point.cost_ms:
        return None
    rivals = [
        one
        for one in verdict.singles
        if one.cost_ms <= point.cost_ms and one.quality >= point.quality
    ]
    return max(rivals, key=lambda one: one.quality, default=None)


def _no_better(bound: float) -> float:
    """Round up to what is shown: a promise must not look better than it is."""
    return math.ceil(1000 * bound - 1e-9) / 1000


def _quality(verdict: Verdict, point: Measured) -> str:
    last = verdict.singles[-1]
    if verdict.measure == "agreement":
        return f"same answer on {percent(point.quality)} of rows"
    return f"accuracy {percent(point.quality)} against {percent(last.quality)}"
