"""Result files drawn as PNG, beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["contest", "overhead", "save"]

_OURS, _OTHERS, _BOUND = "#d1495b", "#8d96a0", "#2a9d6f"


def save(path: Path, values: dict[str, Any]) -> Path | None:
    """Draw a result file where there is a figure for it.

    Args:
        path: The JSON file.
        values: What it holds.

    Returns:
        The PNG file; None: nothing is drawn for this kind.
    """
    if "saturated" in values:
        figure = contest(values)
    elif "overhead" in values:
        figure = overhead(values)
    else:
        return None
    target = path.with_suffix(".png")
    figure.savefig(target, dpi=110)
    return target


def contest(values: dict[str, Any]) -> Figure:
    """Draw throughput of all candidates, the smallest and largest of the rounds as whiskers."""
    entries = sorted(values["saturated"], key=lambda one: one["rows_per_s"])
    figure, axes = _figure(0.36 * len(entries) + 1.4)
    rates = [[r["rows_per_s"] for r in one["rounds"]] for one in entries]
    medians = [one["rows_per_s"] for one in entries]
    whiskers = [
        [m - min(r) for m, r in zip(medians, rates, strict=True)],
        [max(r) - m for m, r in zip(medians, rates, strict=True)],
    ]
    colours = [_OURS if one["name"] == "ours" else _OTHERS for one in entries]
    axes.barh([one["name"] for one in entries], medians, xerr=whiskers, color=colours)
    ours = next(one["rows_per_s"] for one in entries if one["name"] == "ours")
    bound = ours / values["ratios"]["ideal bound"]["median"]
    axes.axvline(bound, color=_BOUND, linestyle="--", label="ideal bound of this operating point")
    axes.set_xlabel(f"rows per second, {values['concurrency']} requests at once")
    axes.set_title(f"{values['cascade']}: saturated, medians of {len(rates[0])} rounds")
    axes.legend(loc="lower right", frameon=False)
    return figure


def overhead(values: dict[str, Any]) -> Figure:
    """Draw requests per second of each candidate under each setting, null experts."""
    entries = [one for one in values["overhead"] if one["concurrency"] > 1]
    names = list(entries[0]["median"])
    figure, axes = _figure(4.2)
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        places = [k + (i - (len(names) - 1) / 2) * width for k in range(len(entries))]
        rates = [one["median"][name]["rows_per_s"] for one in entries]
        axes.bar(places, rates, width, label=name, color=_OURS if name == "ours" else f"C{i}")
    labels = [f"{one['concurrency']} at once\n{one['escalating']:.0%} escalate" for one in entries]
    axes.set_xticks(range(len(entries)), labels, fontsize=8)
    axes.set_ylabel("requests per second")
    axes.set_title("experts that do nothing: what the router costs")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _figure(height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
