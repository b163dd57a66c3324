"""The report of a calibration: one page that stands alone, its figures, and its tables as data.

Everything is drawn from the verdict; the provenance is only shown.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .policy_file import put
from .verdict import Measured, Verdict
from .wish import LAST
from .words import (
    beaten_by,
    change,
    gain,
    headline,
    missing,
    ms,
    percent,
    promise,
    promise_in_words,
    shown,
)

__all__ = ["PAGE", "report_files", "write_report"]

PAGE = "report.html"

_TEMPLATE = "report_page.html"
_WORST = 15
"""Classes shown before the rest is folded away."""

_NOTHING = "\N{EN DASH}"

_ALT = {
    "frontier": "Quality over mean cost: frontier, ladder, experts alone, a perfect gate.",
    "exits": "Share of rows that each tier answers, point by point.",
    "reliability": "Share of rows right over confidence, per tier, before and after temperature.",
}


def report_files(
    verdict: Verdict, provenance: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, bytes]:
    """Make all files of a report.

    Args:
        verdict: What was found.
        provenance: Shown as it is.
        names: C names of the classes; None: they go by number.

    Returns:
        Content by file name. Equal arguments give equal bytes.
    """
    from .plots import drawn

    figures = drawn(verdict)
    classes = _classes(verdict, names)
    files = {f"{name}.png": forms["png"] for name, forms in figures.items()}
    files["ladder.csv"] = _csv_of(verdict.points, verdict)
    files["singles.csv"] = _csv_of(verdict.singles, verdict)
    files["frontier.csv"] = _csv(("kind", "cost_ms", "quality"), _frontier(verdict))
    heads = ("class", "name", "rows", "quality_last", "quality_default", "drop", "rows_lost")
    files["classes.csv"] = _csv(heads, classes)
    values = {"verdict": verdict.as_json(), "provenance": dict(provenance)}
    files["verdict.json"] = (json.dumps(values, indent=2) + "\n").encode()
    files[PAGE] = _page(verdict, provenance, figures, classes).encode()
    return files


def write_report(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write a report, file by file whole, the page last; other files of the folder stay.

    Returns:
        The page.

    Raises:
        BuildError: If the file system refuses.
    """
    for name, data in files.items():
        put(folder / name, data)
    return folder / PAGE


def _page(
    verdict: Verdict,
    provenance: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, bytes]],
    classes: Sequence[tuple[Any, ...]],
) -> str:
    import jinja2

    text = Path(__file__).with_name(_TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_unbroken,
    )
    last = verdict.singles[-1]
    worst = [row for row in classes if row[-1] > 0][:_WORST]
    return environment.from_string(text).render(
        verdict=verdict,
        headline=headline(verdict),
        gain=gain(verdict),
        shown=shown(verdict),
        last=last,
        ladder=[_ladder_row(verdict, point) for point in verdict.points],
        singles=[_ladder_row(verdict, single) for single in verdict.singles],
        figures={
            name: {"alt": _ALT[name], "data": base64.b64encode(forms["svg"]).decode()}
            for name, forms in figures.items()
        },
        oracle={
            "saving": percent(1 - verdict.curve.oracle_cost_ms / last.cost_ms, 0),
            "quality": percent(verdict.curve.oracle_quality),
            "share": percent(verdict.half_point.oracle_share, 0),
            "half": percent(verdict.half_point.saving, 0),
            "half_change": change(-verdict.half_point.drop),
        },
        promises=[(point.name, promise_in_words(verdict, point)) for point in verdict.points],
        level=percent(verdict.level, 0),
        refused=[(one["name"], missing(verdict, one)) for one in verdict.refused],
        trials=[
            (one["name"], change(one["gain"]), f"{100 * one['error']:.1f}", one["kept"])
            for one in verdict.trials
        ],
        luck=change(verdict.luck, sign=False),
        rivals=_rivals(verdict),
        worst=[_class_cells(row) for row in worst],
        others=[_class_cells(row) for row in classes[len(worst) :]],
        provenance=list(_flat(provenance)),
    )


def _unbroken(value: Any) -> Any:
    """Keep a figure and its unit on one line."""
    if not isinstance(value, str):
        return value
    return value.replace(" %", "\N{NO-BREAK SPACE}%").replace(" pp", "\N{NO-BREAK SPACE}pp")


def _ladder_row(verdict: Verdict, point: Measured) -> dict[str, Any]:
    still = point.drop == 0 and point.drop_error == 0
    return {
        "name": point.name,
        "default": point.name == verdict.default,
        "cost": ms(point.cost_ms),
        "worst": ms(point.worst_ms),
        "saved": percent(point.saving, 0),
        "quality": percent(point.quality),
        "change": _NOTHING if still else f"{change(-point.drop)} ± {100 * point.drop_error:.1f}",
        "promise": promise(point) or _NOTHING,
        "random": percent(point.random_quality),
        "oracle": percent(point.oracle_share, 0),
        "exits": " / ".join(f"{100 * share:.0f}" for share in point.exit_shares),
    }


def _rivals(verdict: Verdict) -> list[str]:
    """Say which points an expert alone equals."""
    out = []
    for point in verdict.points:
        rival = beaten_by(verdict, point)
        if rival is not None and point.name != LAST:
            quality, cost = percent(rival.quality), ms(rival.cost_ms)
            text = f"{point.name}: {rival.name} alone is as good for no more"
            out.append(f"{text} ({quality} at {cost} ms).")
    return out


def _classes(verdict: Verdict, names: Sequence[str] | None) -> list[tuple[Any, ...]]:
    """List class, name, rows, both qualities, drop and net rows lost; most rows lost first."""
    rows = []
    for number, n, before, after in verdict.classes:
        c, count = int(number), int(n)
        name = names[c] if names is not None and 0 <= c < len(names) else ""
        rows.append(
            (c, name, count, before, after, before - after, round(count * (before - after)))
        )
    return sorted(rows, key=lambda row: (-row[6], -row[5], row[0]))


def _class_cells(row: Sequence[Any]) -> dict[str, Any]:
    number, name, n, before, after, drop, lost = row
    return {
        "name": name or f"class {number}",
        "rows": n,
        "before": percent(before, 0),
        "after": percent(after, 0),
        "drop": change(-drop),
        "lost": f"{-lost:+d}".replace("-", "\N{MINUS SIGN}") if lost else "0",
    }


def _frontier(verdict: Verdict) -> Iterable[tuple[str, float, float]]:
    curve = verdict.curve
    for cost, quality in zip(curve.cost_ms, curve.quality, strict=True):
        yield "frontier", cost, quality
    yield "oracle", curve.oracle_cost_ms, curve.oracle_quality


def _csv_of(points: Sequence[Measured], verdict: Verdict) -> bytes:
    """Write one line a point; lists get a column per tier, the certificate its figures."""
    per_tier = ("exit_shares", "reach")
    scalars = [f.name for f in fields(Measured) if f.name not in (*per_tier, "certificate")]
    stated = ("promise", "bound", "level", "rows", "method", "lost", "won")
    heads = [
        *scalars,
        *(f"{name}:{tier}" for name in per_tier for tier in verdict.tiers),
        *(f"certificate_{key}" for key in stated),
    ]
    lines = [
        [
            *(getattr(point, name) for name in scalars),
            *point.exit_shares,
            *point.reach,
            *((point.certificate or {}).get(key, "") for key in stated),
        ]
        for point in points
    ]
    return _csv(heads, lines)


def _csv(heads: Sequence[str], lines: Iterable[Sequence[Any]]) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return file.getvalue().encode()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Write nested tables as lines."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} · ")
        else:
            yield f"{prefix}{key}", str(value)
