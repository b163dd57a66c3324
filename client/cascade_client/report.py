"""Tables for people: what a command found, in columns whose order never changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .answer import Answer
from .compare import Comparison
from .status import ServedPolicy, Status

if TYPE_CHECKING:
    from rich.table import Table

    from .measured import Found, Measured

__all__ = [
    "answer_table",
    "comparison_table",
    "found_table",
    "level_table",
    "part_table",
    "point_table",
    "tier_table",
]

_NOTHING = "-"


def answer_table(answers: Iterable[tuple[str, Answer]], top: int) -> Table:
    """Show answers by the name of their row, each with its ``top`` classes."""
    from rich.markup import escape

    table = _table("row", "label", "!confidence", "tier", "!ms")
    for name, answer in answers:
        ranked = answer.top(top)
        table.add_row(
            escape(name),  # a text may hold what rich takes for markup
            escape("\n".join(one.name or str(one.label) for one in ranked)),
            "\n".join(f"{one.probability:.3f}" for one in ranked),
            f"{answer.tier} {answer.tier_name}{_remarks(answer)}",
            f"{answer.ms:.1f}",
        )
    return table


def _remarks(answer: Answer) -> str:
    """Say what is not as usual: a cascade that abstains, a tier that failed, a time too short."""
    degraded = {None: "", "tier": ", a tier failed", "deadline": ", cut short"}[answer.degraded]
    return f"{', abstains' if answer.abstained else ''}{degraded}"


def comparison_table(comparison: Comparison) -> Table:
    """Show one line per candidate, a column of shares per tier."""
    results = comparison.results
    seen = {tier for result in results for tier in result.summary.tier_share}
    tiers = sorted(seen | set(range(len(comparison.tiers))))
    shares = [f"!share {_tier_name(tier, comparison.tiers)}" for tier in tiers]
    medians = [f"!p50 {_tier_name(tier, comparison.tiers)}" for tier in tiers]
    columns = ["candidate", "!rows/s", "!p50 ms", "!p95 ms", "!p99 ms", *shares, *medians]
    with_lag = comparison.load.rate is not None
    columns += ["!agreement", *(["!lag p99 ms"] if with_lag else []), "errors"]
    table = _table(*columns)
    for result in results:
        summary = result.summary
        table.add_row(
            result.candidate.name,
            _number(summary.rows_per_s, 1),
            *(_number(ms, 2) for ms in (summary.p50_ms, summary.p95_ms, summary.p99_ms)),
            *(_share(summary.tier_share, tier) for tier in tiers),
            *(_number(summary.tier_p50_ms.get(tier, math.nan), 2) for tier in tiers),
            _number(result.agreement, 4),
            *([_number(summary.lag_p99_ms, 2)] if with_lag else []),
            ", ".join(f"{n} {kind}" for kind, n in summary.errors.items()) or _NOTHING,
        )
    return table


def level_table(levels: Sequence[Measured], tiers: Sequence[str]) -> Table:
    """Show one line per candidate and level of load; the CSV says more of each tier."""
    names = [f"!{kind} {tier}" for tier in tiers for kind in ("reached", "batch")]
    columns = ("!rows/s", "!p50 ms", "!p95 ms", "!p99 ms", *names, "state")
    table = _table("candidate", "load", "!seconds", *columns)
    for one in levels:
        table.add_row(
            one.candidate,
            str(one.level),
            f"{one.level.seconds:g}",
            *(_number(x, 1) for x in (one.rows_per_s, one.p50_ms, one.p95_ms, one.p99_ms)),
            *(
                cell
                for tier in one.tiers
                for cell in (_percent(tier.reached), _number(tier.mean_batch, 1))
            ),
            "" if one.state == "ok" else one.state,
        )
    return table


def found_table(found: Sequence[Found]) -> Table:
    """Show the highest rate that keeps the target, or how near each candidate came."""
    target = found[0].target
    latency = f"!p{target.percentile} ms"
    table = _table("candidate", "!highest rate", "!rows/s", latency, "note")
    for one in found:
        level = one.level
        table.add_row(
            one.candidate,
            _NOTHING if level is None else str(level.level),
            _NOTHING if level is None else _number(level.rows_per_s, 1),
            _NOTHING if level is None else _number(target.latency(level), 1),
            one.refusal() if level is None else "or more: none higher was tried" * one.capped,
        )
    table.title = str(target)
    return table


def part_table(status: Status) -> Table:
    """Show the models a cascade is made of."""
    table = _table("part", "role", "version", "ready", "!rows")
    for part in status.parts:
        ready = "yes" if part.ready else f"no: {part.why}" if part.why else "no"
        rows = _NOTHING if part.rows is None else str(part.rows)
        table.add_row(part.model, part.role, ", ".join(part.versions) or _NOTHING, ready, rows)
    return table


def tier_table(status: Status) -> Table:
    """Show the tiers as the policy knows them."""
    table = _table("!tier", "expert", "model", "!ms alone", "digest")
    for tier in status.tiers:
        cost = _number(math.nan if tier.cost_ms is None else tier.cost_ms, 2)
        table.add_row(str(tier.tier), tier.name, tier.model, cost, tier.digest)
    return table


def point_table(served: ServedPolicy) -> Table:
    """Show the operating points, cheapest first, with what was measured for each."""
    policy = served.policy
    measured = sorted({key for point in policy.points for key in point.measured})
    thresholds = [f"!{tier.name} >=" for tier in policy.tiers]
    table = _table("point", "default", "certified", *thresholds, *(f"!{key}" for key in measured))
    for point in policy.points:
        gates = (
            "off" if gate.off else "any" if math.isinf(gate.threshold) else f"{gate.threshold:.4g}"
            for gate in point.gates
        )
        table.add_row(
            point.name,
            "yes" if point.name == served.default_point else "",
            _promise(point.certificate),
            *gates,
            *(_figure(point.measured.get(key)) for key in measured),
        )
    return table


def _promise(certificate: Mapping[str, object] | None) -> str:
    if certificate is None:
        return "no"
    promise, level = certificate.get("promise"), certificate.get("level")
    return f"yes: {promise} at level {level}" if promise is not None else "yes"


def _table(*columns: str) -> Table:
    """Make a table; a leading ``!`` aligns a column of numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.removeprefix("!")
        table.add_column(name, justify="left" if name == column else "right", overflow="fold")
    return table


def _tier_name(tier: int, names: Sequence[str]) -> str:
    return names[tier] if tier < len(names) else f"tier {tier}"


def _number(value: float, digits: int) -> str:
    return _NOTHING if math.isnan(value) else f"{value:.{digits}f}"


def _percent(share: float) -> str:
    return _NOTHING if math.isnan(share) else f"{100 * share:.1f} %"


def _share(shares: Mapping[int, float], tier: int) -> str:
    return _percent(shares.get(tier, 0.0)) if shares else _NOTHING


def _figure(value: object) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
