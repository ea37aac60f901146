"""Figures of benchmarks: scores over a range, and numbers with their intervals.

Marks of methods that use relevance are orange, all others blue. An interval is drawn as a line or a band.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from headwise.benchmarks.results import LEAST, LEAST_LAYERS, MOST, MOST_LAYERS, Weakening
from headwise.intervals import Interval
from headwise.measuring.agreement import Agreement
from headwise.report.style import ACCENT, GREY, INK, SEQUENTIAL, Figure, canvas, matplotlib, name_concepts

__all__ = [
    "agreements",
    "intervals",
    "lines",
    "rates",
    "tradeoff",
    "tradeoff_curves",
    "weakening_areas",
    "weakening_curves",
]

_ORDER_STYLE = {
    MOST: (ACCENT, "-", 2.2),
    LEAST: (INK, "-", 2.2),
    MOST_LAYERS: (ACCENT, ":", 1.4),
    LEAST_LAYERS: (INK, ":", 1.4),
}


def weakening_curves(weakening: Weakening) -> Figure:
    """The mean score against the number of weakened heads: a line per order, bands for those by relevance."""
    randoms = [order for order in weakening.orders if order.startswith("random")]
    with canvas(8, 4) as (figure, axes):
        for order in weakening.orders:
            color, line, width = _ORDER_STYLE.get(order, (GREY, "-", 1.0))
            value, low, high = weakening.curve(order)
            label = order if order not in randoms else "random" if order == randoms[0] else None
            axes.plot(weakening.ks, value, color=color, linestyle=line, linewidth=width, label=label)
            if order in _ORDER_STYLE:
                axes.fill_between(weakening.ks, low, high, color=color, alpha=0.12, linewidth=0)
        axes.set(xlabel="heads weakened (k)", ylabel="mean score", xlim=(0, weakening.ks[-1]))
        axes.legend(frameon=False, loc="upper right")
        concept = weakening.scores.settings.get("concept", "")
        axes.set_title(f"{concept}: what is left when heads are weakened")
    return figure


def weakening_areas(weakenings: Mapping[str, Weakening]) -> Figure:
    """Area between least and most relevant first, of every concept, with its interval and two controls."""
    areas = {name: weakening.area() for name, weakening in weakenings.items()}
    names = sorted(areas, key=lambda name: areas[name].value)
    rows = np.arange(len(names))
    low, value, high = ([getattr(areas[n], end) for n in names] for end in ("low", "value", "high"))
    random = [weakenings[name].random().value for name in names]
    layers = [weakenings[name].area(MOST_LAYERS, LEAST_LAYERS).value for name in names]
    with canvas(8, 1.5 + 0.24 * len(names)) as (figure, axes):
        axes.hlines(rows, low, high, color=INK, linewidth=2)
        axes.scatter(value, rows, color=INK, zorder=3, label="least − most relevant first")
        axes.scatter(random, rows, facecolors="none", edgecolors=ACCENT, zorder=4, label="random − most")
        axes.scatter(layers, rows, marker="s", s=14, color=GREY, zorder=2, label="whole layers")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("area between curves (score, averaged over k)")
        axes.legend(frameon=False, loc="lower right")
        name_concepts(axes, names)
        axes.set_ylabel("")
    return figure


def tradeoff(points: Mapping[str, tuple[Interval, Interval]], x: str, y: str) -> Figure:
    """One mark with its two intervals for each method: which goes far on one axis without loss on the other?

    Args:
        points: Where each method stands on both axes, by its name.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
    """
    with canvas(7.5, 5) as (figure, axes):
        for name, (across, up) in points.items():
            color = _color(name)
            axes.plot([across.low, across.high], [up.value] * 2, color=color, linewidth=1.2)
            axes.plot([across.value] * 2, [up.low, up.high], color=color, linewidth=1.2)
            axes.scatter([across.value], [up.value], color=color, zorder=3)
        lowest = -np.inf  # names from below, each above the last where they would touch
        for name, (across, up) in sorted(points.items(), key=lambda item: item[1][1].value):
            at = (across.value, up.value)
            height = axes.transData.transform(at)[1] * 72 / figure.dpi
            lowest = max(height + 4, lowest + 9)
            shift = (5, lowest - height)
            axes.annotate(name, at, shift, textcoords="offset points", color=_color(name), fontsize=8)
        axes.set(xlabel=x, ylabel=y)
    return figure


def tradeoff_curves(points: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str) -> Figure:
    """One line for each method over the positions of its dial, with a mark at each.

    Args:
        points: The coordinates of each method's positions, in the order of the dial, by its name.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
    """
    with canvas(9, 5) as (figure, axes):
        colours = itertools.cycle(matplotlib.color_sequences["tab10"])  # and marks, for colour-blind eyes
        for color, marker, (name, at) in zip(
            colours, itertools.cycle("osD^vXP"), points.items(), strict=False
        ):
            across, up = np.array(at).T
            axes.plot(across, up, marker=marker, markersize=4, linewidth=1.2, color=color, label=name)
        axes.set(xlabel=x, ylabel=y)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def agreements(by_concept: Mapping[str, Agreement]) -> Figure:
    """Rank correlation of two measurements by concept, beside the highest that they could reach."""
    names = sorted(by_concept, key=lambda name: by_concept[name].correlation)
    rows = np.arange(len(names))
    reached, ceiling = ([getattr(by_concept[n], key) for n in names] for key in ("correlation", "ceiling"))
    with canvas(8, 1.5 + 0.24 * len(names)) as (figure, axes):
        axes.hlines(rows, 0, reached, color=INK, linewidth=1)
        axes.scatter(reached, rows, color=INK, zorder=3, label="the two measurements")
        axes.scatter(ceiling, rows, marker="|", s=90, color=ACCENT, label="the most they could reach")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel="rank correlation over heads", xlim=(min(-0.1, *reached), 1.02))
        axes.legend(frameon=False, loc="lower right")
        name_concepts(axes, names)
    return figure


def rates(by_method: Mapping[str, Interval], label: str) -> Figure:
    """Shares with their intervals on an axis from 0 to 1: see `intervals`."""
    figure = intervals(by_method, label)
    figure.axes[0].set(xlim=(0, 1))
    return figure


def intervals(by_name: Mapping[str, Interval], label: str) -> Figure:
    """Numbers with their intervals, one row for each, the first on top.

    Args:
        by_name: The numbers; their names label the rows.
        label: The label of the horizontal axis.
    """
    rows = np.arange(len(by_name))[::-1]
    low, value, high = ([getattr(i, end) for i in by_name.values()] for end in ("low", "value", "high"))
    with canvas(7.5, 1.2 + 0.32 * len(by_name)) as (figure, axes):
        axes.hlines(rows, low, high, color=INK, linewidth=2)
        axes.scatter(value, rows, color=INK, zorder=3)
        axes.set_yticks(rows, list(by_name))
        axes.tick_params(axis="y", length=0)
        axes.set(xlabel=label)
        if np.nanmin([*low, *value]) < 0:
            axes.axvline(0, color=GREY, linewidth=1)
    return figure


def lines(
    by_name: Mapping[str, Sequence[Sequence[float]]], x: str, y: str, goal: float | None = None
) -> Figure:
    """One line for each name over a logarithmic axis, with the lowest and highest as a band.

    Args:
        by_name: The points of each line: x, y, and the lowest and highest y.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
        goal: A level that is to be reached, drawn as a dashed line; None draws none.
    """
    with canvas(8, 4) as (figure, axes):
        shades = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 0.85, len(by_name)))
        for color, marker, (name, points) in zip(
            shades, itertools.cycle("osD^vXP"), by_name.items(), strict=False
        ):
            at, mean, low, high = np.array(points).T[:4]
            axes.plot(at, mean, marker=marker, markersize=4, color=color, label=name)
            axes.fill_between(at, low, high, color=color, alpha=0.1, linewidth=0)
        if goal is not None:
            axes.axhline(goal, color=ACCENT, linewidth=1, linestyle="--")
        axes.set(xlabel=x, ylabel=y, xscale="log")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _color(method: str) -> str:
    return ACCENT if method.startswith("relevance") else INK
