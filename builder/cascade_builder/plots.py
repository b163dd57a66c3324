"""The figures of a report, drawn from a verdict alone: no window, no global state of Matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .verdict import BINS, Measured, Reliability, Verdict
from .words import percent, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

__all__ = ["FIGURES", "drawn"]

_INK, _MUTED, _GRID = "#1d2733", "#66727f", "#e3e8ed"
_POINT, _CURVE, _ORACLE, _RANDOM = "#d1495b", "#8d96a0", "#2a9d6f", "#b9790f"
_TIERS = ["#c9e7e3", "#5fa9c0", "#1d3f6e"]
_AFTER = "#31789c"

_WIDE = 0.05
"""Share of quality from which on whole percents tell ticks apart."""

_LEAST_SAVING = 0.08
"""Share of cost below which an arrow would be too short to read."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#aab4be",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
    # A name with dollars is no formula.
    "text.parse_math": False,
    # Equal verdicts give equal bytes.
    "svg.hashsalt": "cascade",
}


def drawn(verdict: Verdict) -> dict[str, dict[str, bytes]]:
    """Draw all figures.

    Returns:
        By name of the figure, its ``svg`` and ``png`` bytes.
    """
    import matplotlib as mpl

    out = {}
    with mpl.rc_context(_STYLE):
        for name, draw in FIGURES.items():
            figure = draw(verdict)
            out[name] = {
                "svg": _saved(figure, "svg", metadata={"Date": None, "Creator": None}),
                "png": _saved(figure, "png", dpi=150, metadata={"Software": None}),
            }
    return out


def _saved(figure: Figure, form: str, **kwargs: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=form, bbox_inches="tight", pad_inches=0.08, **kwargs)
    return file.getvalue()


def _frontier(verdict: Verdict) -> Figure:
    """Quality over cost: the frontier, the ladder, and what it must beat."""
    figure, ax = _axes(7.6, 4.6)
    curve = sorted(zip(verdict.curve.cost_ms, verdict.curve.quality, strict=True))
    ax.plot(*zip(*curve, strict=True), color=_CURVE, lw=1.6, zorder=2, label="frontier")
    ladder = [point for point in verdict.points if point.cost_ms < verdict.singles[-1].cost_ms]
    for point in ladder:
        ends = [point.random_quality, point.quality]
        ax.plot([point.cost_ms] * 2, ends, color=_RANDOM, lw=1, ls=":", zorder=1)
    marks: list[tuple[str, list[Measured], dict[str, Any]]] = [
        ("an expert alone", verdict.singles, {"marker": "s", "c": _INK, "s": 42}),
        ("the ladder", ladder, {"marker": "o", "c": _POINT, "s": 62, "edgecolors": "white"}),
    ]
    for label, points, style in marks:
        xy = [(point.cost_ms, point.quality) for point in points]
        if xy:
            ax.scatter(*zip(*xy, strict=True), label=label, zorder=4, **style)
    if ladder:
        xy = [(point.cost_ms, point.random_quality) for point in ladder]
        style = {"marker": "o", "s": 34, "facecolors": "white", "edgecolors": _RANDOM, "zorder": 3}
        ax.scatter(*zip(*xy, strict=True), label="random escalation, same cost", **style)
    arrow = _saving(ax, verdict)
    best = (verdict.curve.oracle_cost_ms, verdict.curve.oracle_quality)
    ax.scatter(*best, marker="*", s=150, c=_ORACLE, label="a perfect gate", zorder=4)
    ax.set_xlim(0, 1.06 * max(one.cost_ms for one in verdict.singles))
    ax.margins(y=0.12)
    ax.set_xlabel("mean cost, ms per row")
    ax.set_ylabel(
        "accuracy" if verdict.measure == "accuracy" else f"agreement with {_last(verdict)}"
    )
    _percent_axis(ax.yaxis)
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=3, fontsize=8.5)
    named = [(p.name, p.cost_ms, p.quality, _POINT) for p in ladder]
    named += [(p.name, p.cost_ms, p.quality, _INK) for p in verdict.singles]
    random = [(p.cost_ms, p.random_quality) for p in ladder]
    drops = [xy for p in ladder for xy in _along((p.cost_ms, p.random_quality), _at(p))]
    last = verdict.singles[-1]
    drops += _along((shown(verdict).cost_ms, last.quality), _at(last), 40)
    line = [xy for a, b in pairwise(curve) for xy in _along(a, b)]
    figure.draw_without_rendering()
    _label(ax, named, avoid=[best, *random, *drops, *line], texts=arrow)
    return figure


def _saving(ax: Axes, verdict: Verdict) -> list[Annotation]:
    """Show by an arrow what the default point saves against the last expert; give its text."""
    point, last = shown(verdict), verdict.singles[-1]
    ax.axhline(last.quality, color=_CURVE, lw=0.9, ls=(0, (5, 4)), zorder=1)
    if not verdict.cascade_pays or point.saving < _LEAST_SAVING:
        return []
    ends = [(x, last.quality) for x in (point.cost_ms, last.cost_ms)]
    style = {"arrowstyle": "-|>", "color": _ORACLE, "lw": 1.6, "shrinkA": 6, "shrinkB": 4}
    ax.annotate("", xy=ends[0], xytext=ends[1], arrowprops=style, zorder=3)
    middle = ((point.cost_ms + last.cost_ms) / 2, last.quality)
    text = ax.annotate(
        f"{percent(point.saving, 0)} saved",
        middle,
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color=_ORACLE,
        fontsize=10.5,
        fontweight="bold",
    )
    return [text]


def _at(point: Measured) -> tuple[float, float]:
    return point.cost_ms, point.quality


def _along(
    a: tuple[float, float], b: tuple[float, float], steps: int = 12
) -> list[tuple[float, float]]:
    """Give points on the way from one to another, for names to keep off."""
    return [
        (a[0] + (b[0] - a[0]) * i / steps, a[1] + (b[1] - a[1]) * i / steps)
        for i in range(steps + 1)
    ]


def _exits(verdict: Verdict) -> Figure:
    """Who answers, point by point."""
    figure, ax = _axes(7.6, 0.9 + 0.46 * len(verdict.points))
    names = [_plain(point.name) for point in verdict.points]
    left = [0.0] * len(names)
    for k, tier in enumerate(verdict.tiers):
        shares = [point.exit_shares[k] for point in verdict.points]
        colour = _tier_colour(k, len(verdict.tiers))
        bars = ax.barh(names, shares, left=left, color=colour, height=0.66, label=_plain(tier))
        dark = k >= len(verdict.tiers) / 2
        texts = [percent(share, 0) if share >= 0.06 else "" for share in shares]
        ax.bar_label(
            bars, texts, label_type="center", color="white" if dark else _INK, fontsize=8.5
        )
        left = [a + b for a, b in zip(left, shares, strict=True)]
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.grid(visible=False)
    ax.tick_params(axis="y", length=0, labelcolor=_INK)
    ax.spines["left"].set_visible(False)
    _percent_axis(ax.xaxis)
    ax.set_xlabel("share of rows answered")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=6, fontsize=8.5)
    return figure


def _reliability(verdict: Verdict) -> Figure:
    """Share right over confidence, a panel per tier, before and after temperature."""
    shown_tiers = verdict.reliability
    columns = max(min(len(shown_tiers), 3), 1)
    lines = max(-(-len(shown_tiers) // columns), 1)
    figure = _figure(2.75 * columns + 0.4, 3.1 * lines + 0.2)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for ax, found in zip(axes, shown_tiers, strict=False):
        _diagram(ax, found)
    for ax in list(axes)[len(shown_tiers) :]:
        ax.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=8.5)
    figure.supxlabel("confidence", fontsize=9.5)
    right = "right" if verdict.measure == "accuracy" else f"answered as {_last(verdict)} does"
    figure.supylabel(f"share of rows {right}", fontsize=9.5)
    return figure


def _diagram(ax: Axes, found: Reliability) -> None:
    ax.plot([0, 1], [0, 1], color=_CURVE, lw=1, ls="--", zorder=1)
    rows = [bin_[2] for bin_ in found.after if bin_] or [1]
    ax.bar(
        [(i + 0.5) / BINS for i, bin_ in enumerate(found.after) if bin_],
        [0.25 * n / max(rows) for n in rows],
        width=0.9 / BINS,
        color=_GRID,
        zorder=0,
    )
    sides = [("before", found.before, _CURVE, "o")]
    if found.temperature != 1.0:
        sides.append(("after", found.after, _AFTER, "D"))
    for label, bins, colour, marker in sides:
        filled = [bin_ for bin_ in bins if bin_]
        if filled:
            x, y, n = zip(*filled, strict=True)
            most = max(n)
            ax.plot(x, y, color=colour, lw=1, alpha=0.45, zorder=2)
            sizes = [7 + 45 * (rows / most) ** 0.5 for rows in n]
            ax.scatter(
                x, y, s=sizes, c=colour, marker=marker, lw=0, label=label, zorder=3, clip_on=False
            )
    off = percent(found.error_before)
    if found.temperature != 1.0:
        off += f" \N{RIGHTWARDS ARROW} {percent(found.error_after)}"
    used = "in use" if found.used else "not used"
    title = f"{_plain(found.tier)}\nT = {found.temperature:.2f}, {used}\noff by {off}"
    ax.set_title(title, fontsize=9)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.02)
    ax.set_aspect("equal")
    ax.set_xticks([0, 0.5, 1])
    ax.set_yticks([0, 0.5, 1])


FIGURES: dict[str, Callable[[Verdict], Figure]] = {
    "frontier": _frontier,
    "exits": _exits,
    "reliability": _reliability,
}
"""Name of every figure, and what draws it."""


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    return figure, figure.add_subplot()


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _label(
    ax: Axes,
    named: Sequence[tuple[str, float, float, str]],
    avoid: Sequence[tuple[float, float]],
    texts: Sequence[Annotation],
) -> None:
    """Write names beside marks, where they cover the least."""
    from matplotlib.transforms import Bbox

    marks = [(x, y) for _, x, y, _ in named] + list(avoid)
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in ax.transData.transform(marks)]
    taken += [text.get_window_extent() for text in texts]
    frame = ax.get_window_extent()
    for name, x, y, colour in named:
        best: tuple[float, Any] | None = None
        for offset, ha, va in _places():
            text = ax.annotate(
                _plain(name),
                (x, y),
                xytext=offset,
                textcoords="offset points",
                ha=ha,
                va=va,
                color=colour,
                fontsize=9,
                zorder=5,
            )
            box = text.get_window_extent()
            price = sum(_shared(box, other) for other in taken)
            price += box.width * box.height - _shared(box, frame)
            if best is None or price < best[0]:
                if best is not None:
                    best[1].remove()
                best = (price, text)
            else:
                text.remove()
        if best is not None:
            taken.append(best[1].get_window_extent())


def _places() -> Iterator[tuple[tuple[int, int], str, str]]:
    """Offsets in points and anchors, the best looking first."""
    for far in (1, 2, 3):
        yield (0, 7 * far), "center", "bottom"
        yield (7 * far, -4), "left", "top"
        yield (0, -8 * far), "center", "top"
        yield (-7 * far, 4), "right", "bottom"
        yield (7 * far, 4), "left", "bottom"
        yield (-7 * far, -4), "right", "top"


def _shared(a: Any, b: Any) -> float:
    """Give the area that two boxes share."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(width, 0) * max(height, 0))


def _percent_axis(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # Steps of 2.5 would need a decimal.
    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    low, high = sorted(axis.get_view_interval())
    decimals = 0 if high - low > _WIDE else 1
    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals, symbol=" %"))


def _tier_colour(k: int, n: int) -> Any:
    """Colour a tier: the dearer, the darker."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("tiers", _TIERS)(k / max(n - 1, 1))


def _last(verdict: Verdict) -> str:
    return _plain(verdict.tiers[-1])


def _plain(name: str) -> str:
    """Keep a name that starts with _ in the legend."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
