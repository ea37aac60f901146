"""Figures of numbers with their intervals: one row each, or one point between two axes.

Methods that use relevance are orange, all others blue. An interval is a line through its mark.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Unpack

import numpy as np

from headwise.benchmarks.results import LEAST_LAYERS, MOST_LAYERS, Weakening
from headwise.intervals import Interval
from headwise.measuring.agreement import Agreement
from headwise.report.canvas import Place, canvas, figure_of
from headwise.report.labels import legend_above, lines_of, name_rows, upwards
from headwise.report.style import ACCENT, GREY, INK, Figure

__all__ = ["agreements", "intervals", "rates", "tradeoff", "weakening_areas"]


def weakening_areas(
    weakenings: Mapping[str, Weakening],
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """The area between least and most relevant first for each concept, with its interval and two controls.

    Args:
        weakenings: The weakening of each concept, by its name.
        concepts: The concepts to show, from top to bottom; None shows all, the largest area on top.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept was not weakened.
    """
    areas = {name: weakening.area() for name, weakening in weakenings.items()}
    names = upwards({name: area.value for name, area in areas.items()}, concepts)
    rows = np.arange(len(names))
    low, value, high = ([getattr(areas[n], end) for n in names] for end in ("low", "value", "high"))
    random = [weakenings[name].random().value for name in names]
    layers = [weakenings[name].area(MOST_LAYERS, LEAST_LAYERS).value for name in names]
    with canvas(1.0, max(4, len(names)), **place) as axes:
        axes.hlines(rows, low, high, color=INK, linewidth=1.5)
        axes.scatter(value, rows, s=14, color=INK, zorder=3, label="least − most relevant first")
        axes.scatter(
            random, rows, s=14, facecolors="none", edgecolors=ACCENT, zorder=4, label="random − most relevant"
        )
        axes.scatter(layers, rows, marker="s", s=8, color=GREY, zorder=2, label="whole layers")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("area between curves (mean score over k)")
        name_rows(axes, names)
        legend_above(axes)
    return figure_of(axes)


def tradeoff(
    points: Mapping[str, tuple[Interval, Interval]],
    x: str,
    y: str,
    **place: Unpack[Place],
) -> Figure:
    """The trade-off between two measures: one mark per method, with an interval in each direction.

    Args:
        points: The two values of each method, by its name.
        x: The label of the horizontal axis.
        y: The label of the vertical axis.
        place: `title`, `width` and `ax`, as in `Place`.
    """
    with canvas(2.6, len(points) / 3, **place) as axes:
        for marker, (name, (across, up)) in zip(
            itertools.cycle("osD^vXP<>*pd"), points.items(), strict=False
        ):
            color = ACCENT if name.startswith("relevance") else INK
            axes.plot([across.low, across.high], [up.value] * 2, color=color, linewidth=0.8)
            axes.plot([across.value] * 2, [up.low, up.high], color=color, linewidth=0.8)
            axes.scatter([across.value], [up.value], s=18, marker=marker, color=color, zorder=3, label=name)
        axes.set(xlabel=x, ylabel=y)
        legend_above(axes)
    return figure_of(axes)


def agreements(
    by_concept: Mapping[str, Agreement],
    concepts: Sequence[str] | None = None,
    **place: Unpack[Place],
) -> Figure:
    """Rank correlation of two measurements by concept, with its noise ceiling.

    Args:
        by_concept: The result of `agreement`.
        concepts: The concepts to show, from top to bottom; None shows all, the highest on top.
        place: `title`, `width` and `ax`, as in `Place`.

    Raises:
        UnknownConcept: A concept is not in both measurements.
    """
    names = upwards({name: each.correlation for name, each in by_concept.items()}, concepts)
    rows = np.arange(len(names))
    reached, ceiling = ([getattr(by_concept[n], key) for n in names] for key in ("correlation", "ceiling"))
    with canvas(1.0, max(4, len(names)), **place) as axes:
        axes.hlines(rows, 0, reached, color=INK, linewidth=0.8)
        axes.scatter(reached, rows, s=14, color=INK, zorder=3, label="correlation")
        axes.scatter(ceiling, rows, marker="|", s=40, color=ACCENT, label="noise ceiling")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel="rank correlation over heads", xlim=(1.1 * min(0.0, *reached), 1.02))
        name_rows(axes, names)
        legend_above(axes)
    return figure_of(axes)


def rates(
    by_method: Mapping[str, Interval],
    label: str,
    **place: Unpack[Place],
) -> Figure:
    """Shares with their intervals on an axis from 0 to 1; arguments as in `intervals`."""
    figure = intervals(by_method, label, **place)
    (place.get("ax") or figure.axes[0]).set_xlim(0, 1)
    return figure


def intervals(
    by_name: Mapping[str, Interval],
    label: str,
    **place: Unpack[Place],
) -> Figure:
    """Numbers with their intervals, one row each, the first on top.

    Args:
        by_name: The numbers; their names label the rows.
        label: The label of the horizontal axis.
        place: `title`, `width` and `ax`, as in `Place`.
    """
    rows = np.arange(len(by_name))[::-1]
    low, value, high = ([getattr(i, end) for i in by_name.values()] for end in ("low", "value", "high"))
    names = list(by_name)
    with canvas(0.5, max(3, 1.3 * lines_of(names) * len(names)), **place) as axes:
        axes.hlines(rows, low, high, color=INK, linewidth=1.5)
        axes.scatter(value, rows, s=14, color=INK, zorder=3)
        name_rows(axes, names, rows.tolist())
        axes.set_xlabel(label)
        if np.nanmin([*low, *value]) < 0:
            axes.axvline(0, color=GREY, linewidth=0.8)
    return figure_of(axes)
