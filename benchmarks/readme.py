"""Write the README's tables of measurements from the newest results, between their marks."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from .chaos.faults import faults
from .provenance import RESULTS

__all__ = ["README", "chaos", "ladder", "newest", "table", "with_table"]

README = Path(__file__).parents[1] / "README.md"

_CONTEST = {
    "ideal bound": "the ideal bound: rows per second if only the experts' own time counted",
    "largest expert": "the largest expert, called directly",
    "what the cost promises over the largest": "the same, as share of what the mean cost promises",
    "per_request_bls": "the tutorials' router: one BLS call per request and tier",
    "client_cascade": "an asynchronous client that calls tier after tier",
    "run_all": "an ensemble that runs all experts and selects",
    "pytriton_cascade": "a cascade in PyTriton",
    "ray_serve_cascade": "a cascade in Ray Serve with `@serve.batch`",
    "p50 of tier-0 exits to a direct call of tier 0": "at 60 % load: p50 of rows that exit at "
    "tier 0, to a direct call of tier 0",
    "p99 to client_cascade": "at 60 % load: p99, to the asynchronous client",
}
"""Ratios of a contest in words; above 1 ours is faster, in the last two below 1 it is quicker."""


def newest(name: str) -> tuple[Path, dict[str, Any]]:
    """Read the newest result file of a benchmark."""
    stem = re.compile(rf"\d{{4}}-\d\d-\d\d-{re.escape(name)}(-\d+)?")
    path = max((p for p in RESULTS.glob("*.json") if stem.fullmatch(p.stem)), key=_age)
    return path, json.loads(path.read_text())


def _age(path: Path) -> str:
    return str(json.loads(path.read_text())["provenance"]["date"])


def table(name: str) -> str:
    """Draw a cascade's candidates as Markdown."""
    path, result = newest(name)
    bench, where = result["bench"], result["provenance"]
    tiers = bench["tiers"]
    largest = next(c for c in bench["candidates"] if c["name"].startswith("largest"))
    lines = [
        f"**`{name}`**: {result['rows']}, {bench['load']['concurrency']} requests at once, "
        f"{where['cores']} cores ({where['cpu']}), medians of "
        f"{len(largest['rounds'])} interleaved rounds, {where['date'][:10]} "
        f"([`{path.name}`](benchmarks/results/{path.name}))",
        "",
        "| candidate | promise | rows/s | to the largest alone | p50 ms | p99 ms | "
        + " | ".join(f"answered by {tier}" for tier in tiers)
        + " | agreement with the largest |",
        "|---|" + "---|" * (6 + len(tiers)),
    ]
    for one in bench["candidates"]:
        shares = [one["tier_share"].get(str(k), 0.0) for k in range(len(tiers))]
        cells = [
            one["name"],
            _promise(result["policy"], one["name"]),
            f"{one['rows_per_s']:.0f}",
            f"{one['rows_per_s'] / largest['rows_per_s']:.2f} x",
            f"{one['p50_ms']:.0f}",
            f"{one['p99_ms']:.0f}",
            *(f"{100 * share:.0f} %" for share in shares),
            f"{one['agreement']:.3f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ladder(name: str) -> str:
    """Draw what a calibration found as Markdown."""
    path, result = newest(name)
    verdict = result["verdict"]["verdict"]
    last = verdict["tiers"][-1]
    lines = [
        f"**`{name}`**, {verdict['rows']['check']} check rows of {sum(verdict['rows'].values())} "
        f"([`{path.name}`](benchmarks/results/{path.name}))",
        "",
        f"| point | ms a row | saved | {verdict['measure']} | vs {last}, points | promised loss |",
        "|---|---|---|---|---|---|",
    ]
    for one in verdict["points"] + [dict(s, name=f"{s['name']} alone") for s in verdict["singles"]]:
        made = one["certificate"]
        bound = f"≤ {100 * made['bound']:g} points" if made and made["bound"] else ""
        cells = [
            one["name"],
            f"{one['cost_ms']:.1f}",
            f"{100 * one['saving']:.0f} %",
            f"{100 * one['quality']:.1f} %",
            _difference(one),
            bound,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def contest() -> str:
    """Draw the cascade against everything else, real experts, as Markdown."""
    path, result = newest("contest")
    n_rounds = len(result["saturated"][0]["rounds"])
    lines = [
        f"**Real experts** (`{result['cascade']}`, {result['rows']}, "
        f"{result['concurrency']} requests at once, medians of {n_rounds} interleaved rounds with "
        f"the lowest and the highest, "
        f"[`{path.name}`](benchmarks/results/{path.name}))",
        "",
        f"![rows per second of all candidates](benchmarks/results/{path.stem}.png)",
        "",
        "| ours, compared with | ratio | rounds |",
        "|---|---|---|",
    ]
    for name, ratio in result["ratios"].items():
        text = _CONTEST.get(name, name)
        lines.append(
            f"| {text} | {ratio['median']:.2f} | {ratio['low']:.2f} to {ratio['high']:.2f} |"
        )
    return "\n".join(lines)


def overhead() -> str:
    """Draw what the router costs as Markdown."""
    path, result = newest("overhead")
    names = list(result["overhead"][0]["ours_to"])
    lines = [
        f"**Experts that do nothing** (perf_analyzer, medians of ratios taken round by round, "
        f"[`{path.name}`](benchmarks/results/{path.name}))",
        "",
        "| requests at once | escalating | "
        + " | ".join(f"ours / {name}" for name in names)
        + " | added p50 per tier run, in p50s of a direct call |",
        "|---|" + "---|" * (2 + len(names)),
    ]
    for one in result["overhead"]:
        cells = [
            str(one["concurrency"]),
            f"{one['escalating']:.0%}",
            *(f"{one['ours_to'][name]['median']:.2f}" for name in names),
            f"{one['added_p50_per_tier_in_direct_p50s']['median']:.2f}"
            if one["concurrency"] == 1
            else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def chaos() -> str:
    """Draw the faults as Markdown, each by the newest run that tried it."""
    lines = [
        "| fault | requests | answered rightly | degraded, as the policy says | refused "
        "| without an answer | | survived | run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for path, one in _newest_faults():
        counts = Counter(one["counts"])
        kinds = ("right", "degraded", "refused")
        unanswered = counts["connection broken"] + counts["no answer"]
        cells = [
            one["what"],
            f"{counts['sent']:,}",
            *(f"{counts[kind]:,}" for kind in kinds),
            f"{unanswered:,}",
            one["note"] if one["survived"] else one["broken"][0],
            "yes" if one["survived"] else "**no**",
            f"[{path.stem}](benchmarks/results/{path.name})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _newest_faults() -> list[tuple[Path, dict[str, Any]]]:
    """Find the newest run of each fault, in the order of the table; faults may be run alone."""
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in sorted(RESULTS.glob("*-chaos*.json"), key=_age):
        for one in json.loads(path.read_text())["faults"]:
            if one["skipped"] is None:
                found[one["name"]] = (path, one)
    return [found[fault.name] for fault in faults(short=False) if fault.name in found]


def _difference(one: dict[str, Any]) -> str:
    """Say how a point's quality differs from the largest expert's; nothing for that one itself."""
    if not one["drop_error"]:
        return ""
    return f"{-100 * one['drop']:+.1f} ± {100 * one['drop_error']:.1f}"


def _promise(policy: dict[str, Any], name: str) -> str:
    """Say what a point promises; nothing for an expert alone or thresholds by hand."""
    point = next((p for p in policy["points"] if p["name"] == name), None)
    if point is None or point["certificate"] is None:
        return ""
    made = point["certificate"]
    if made["method"] == "by construction":
        return "the largest answers"
    measure = made["promise"].removesuffix(" at most")
    share = 100 * made["bound"]
    return f"{measure} ≤ {share:g} points at level {made['level']:g}, n = {made['rows']}"


def with_table(text: str) -> str:
    """Put the newest tables between the marks of the README."""
    measured = "\n\n".join(table(name) for name in ("imagenet", "pitch"))
    tables = {
        "measured": measured,
        "ladder": ladder("imagenet"),
        "overhead": f"{contest()}\n\n{overhead()}",
        "chaos": chaos(),
    }
    for mark, new in tables.items():
        text = _between(text, mark, new)
    return text


def _between(text: str, mark: str, new: str) -> str:
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{new}\n{end}{after}"


if __name__ == "__main__":
    text = README.read_text()
    README.write_text(with_table(text))
    sys.exit(0)
