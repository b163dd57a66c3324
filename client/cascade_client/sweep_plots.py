"""The pictures of a sweep: throughput against latency of all, and what the tiers did of each."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade_router.errors import BuildError

from .measured import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_INK, _MUTED, _GRID = "#1d2733", "#66727f", "#e3e8ed"
_COLOURS = ["#d1495b", "#31789c", "#2a9d6f", "#b9790f", "#6b4fa0", "#8d96a0", "#1d2733"]
_TIERS = ["#9ccfc8", "#5fa9c0", "#1d3f6e"]
_LOADS = {"concurrency": "requests at once", "rate": "requests per second"}
_LOOPS = {"concurrency": "closed loop", "rate": "open loop, random moments"}
_PANELS = {
    "reached": "share of rows that reach a tier",
    "mean_batch": "rows that run together",
    "queue_ms": "wait of a call, ms",
    "compute_ms": "compute per row, ms",
}

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#aab4be",
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    # A name with dollars is no formula.
    "text.parse_math": False,
}


def draw(levels: Sequence[Measured], folder: Path) -> list[Path]:
    """Draw a folder's levels; failed ones are left out.

    Args:
        levels: In the order of the candidates.
        folder: Where the PNGs go.

    Returns:
        ``latency.png`` and one file per candidate.

    Raises:
        BuildError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        message = "sweep: the package 'matplotlib' is not installed, so nothing is drawn"
        hint = "pip install 'triton-cascade[plots]'; the same command then only draws"
        raise BuildError(message, hint=hint)
    import matplotlib as mpl

    usable = [one for one in levels if one.state != "failed"]
    names = list(dict.fromkeys(one.candidate for one in usable))
    paths = []
    with mpl.rc_context(_STYLE):
        if names:
            paths.append(_save(_latency(usable, names), folder / "latency.png"))
        for name in names:
            own = [one for one in usable if one.candidate == name]
            paths.append(_save(_candidate(name, own), folder / f"{_slug(name)}.png"))
    return paths


def _latency(levels: Sequence[Measured], names: Sequence[str]) -> Figure:
    """Latency over throughput, closed and open loops side by side, a colour per candidate."""
    from matplotlib.lines import Line2D

    loads = _loads(levels)
    figure = _figure(4.6 * len(loads) + 0.6, 4.2)
    styles = {"p50_ms": "-o", "p99_ms": ":^"}
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(names)}
    for ax, load in zip(_row(figure, len(loads)), loads, strict=True):
        for name in names:
            # By level: a server that is asked for more than it can do turns back on itself.
            own = _by_level((one for one in levels if one.candidate == name), load)
            for key, style in styles.items():
                at, ms = [one.rows_per_s for one in own], [getattr(one, key) for one in own]
                ax.plot(at, ms, style, color=colours[name], lw=1.4, ms=4)
        ax.set_xlim(left=0)
        ax.set_xlabel("rows answered per second")
        ax.set_title(_LOOPS[load])
        _log_axis(ax, "y")
    figure.axes[0].set_ylabel("latency of a request, ms")
    keys = [Line2D([], [], color=colours[name], lw=3, label=_plain(name)) for name in names]
    keys += [
        Line2D([], [], color=_MUTED, ls=style[0], marker=style[1], ms=4, label=key[:3])
        for key, style in styles.items()
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=min(4, len(keys)))
    return figure


def _candidate(name: str, levels: Sequence[Measured]) -> Figure:
    """One candidate: throughput and latency, then what its tiers did, over the level of load."""
    loads = _loads(levels)
    figure = _figure(10.2, 5.4 * len(loads))
    parts = figure.subfigures(len(loads), 1, squeeze=False).flat
    for part, load in zip(parts, loads, strict=True):
        own = _by_level(levels, load)
        at = [one.level.value for one in own]
        axes = list(part.subplots(2, 3).flat)
        axes[0].plot(at, [one.rows_per_s for one in own], "-o", color=_COLOURS[1], lw=1.4, ms=4)
        axes[0].set_title("rows answered per second")
        axes[0].set_ylim(bottom=0)
        for key, style in {"p50_ms": "-o", "p95_ms": "--s", "p99_ms": ":^"}.items():
            ms = [getattr(one, key) for one in own]
            axes[1].plot(at, ms, style, color=_COLOURS[1], lw=1.4, ms=4, label=key[:3])
        axes[1].set_title("latency of a request, ms")
        axes[1].legend()
        _log_axis(axes[1], "y")
        for ax, (key, title) in zip(axes[2:], _PANELS.items(), strict=True):
            _tiers(ax, own, key)
            ax.set_title(title)
        axes[2].legend()
        for ax in axes:
            _level_axis(ax, at)
        for ax in axes[3:]:
            ax.set_xlabel(_LOADS[load])
        part.suptitle(f"{_plain(name)}: {_LOOPS[load]}", fontsize=11)
    return figure


def _tiers(ax: Axes, levels: Sequence[Measured], key: str) -> None:
    names = [tier.tier for tier in levels[0].tiers]
    at = [one.level.value for one in levels]
    for k, name in enumerate(names):
        values = [getattr(one.tiers[k], key) for one in levels]
        colour = _tier_colour(k, len(names))
        ax.plot(at, values, "-o", color=colour, lw=1.6, ms=4, label=_plain(name))
    ax.set_ylim(bottom=0)


def _loads(levels: Sequence[Measured]) -> list[str]:
    return [load for load in _LOADS if any(one.level.load == load for one in levels)]


def _by_level(levels: Iterable[Measured], load: str) -> list[Measured]:
    """Sort the levels of one load; of those that were measured twice the longer counts."""
    own = [one for one in levels if one.level.load == load]
    by_value = {one.level.value: one for one in sorted(own, key=lambda one: one.level.seconds)}
    return [by_value[value] for value in sorted(by_value)]


def _level_axis(ax: Axes, at: Sequence[float]) -> None:
    """Mark the levels themselves where they are few."""
    from matplotlib.ticker import FixedLocator, NullLocator

    if max(at) > 8 * min(at):
        _log_axis(ax, "x")
    if len(at) <= 8:
        ax.xaxis.set_major_locator(FixedLocator(list(at)))
        ax.xaxis.set_minor_locator(NullLocator())


def _log_axis(ax: Axes, which: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _row(figure: Figure, n: int) -> Sequence[Axes]:
    return list(figure.subplots(1, n, squeeze=False, sharey=True).flat)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    new = path.with_name(path.name + ".new")
    figure.savefig(new, format="png", dpi=140, metadata={"Software": None})
    new.replace(path)
    return path


def _tier_colour(k: int, n: int) -> Any:
    """Colour a tier: the dearer, the darker."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("tiers", _TIERS)(k / max(n - 1, 1))


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")


def _plain(name: str) -> str:
    """Keep a name that starts with _ in the legend."""
    return f"\N{ZERO WIDTH SPACE}{name}" if name.startswith("_") else name
